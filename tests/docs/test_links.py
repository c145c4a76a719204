"""Links between the documents of the project lead somewhere, and the index of decisions is complete."""

import re
from pathlib import Path

from runqy.core.environment.own_packages import APPS

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
PATH = re.compile(r"`((?:[a-z_]+/)+[\w.]+/?)`")
GENERATED = {"openapi.yaml"}
"""Files of the site, made by `make docs`, which checks these links."""
DECISION = re.compile(r"ADR (\d{4})")


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


def test_every_relative_link_names_a_file() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents()
        for target in LINK.findall(CODE.sub("", document.read_text()))
        if target not in GENERATED and not (document.parent / target).exists()
    ]

    assert broken == []


def test_the_guide_names_files_that_exist() -> None:
    paths = PATH.findall((ROOT / "CONTRIBUTING.md").read_text())

    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_decisions_are_numbered_without_gaps_and_each_is_in_the_index() -> None:
    decisions = sorted(path.name for path in (ROOT / "docs/explanation/adr").glob("0*.md"))
    index = LINK.findall((ROOT / "docs/explanation/adr/index.md").read_text())

    assert index == decisions
    assert [int(name[:4]) for name in decisions] == list(range(1, len(decisions) + 1))


def test_code_refers_to_decisions_that_exist() -> None:
    numbers = {path.name[:4] for path in (ROOT / "docs/explanation/adr").glob("0*.md")}

    for path in (path for package in ("runqy", *APPS) for path in (ROOT / package).rglob("*.py")):
        assert set(DECISION.findall(path.read_text())) <= numbers, path

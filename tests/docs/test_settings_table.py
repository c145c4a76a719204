"""The table of settings lists what the code reads, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
READ = re.compile(r"\benv\.\w+\(\s*\"([A-Z][A-Z0-9_]+)\"")
LISTED = re.compile(r"`([A-Z][A-Z0-9_]{2,})`")


def read_by(*modules: str) -> set[str]:
    """Return the variables that modules read."""
    return {name for module in modules for name in READ.findall((ROOT / module).read_text())}


def listed_in(document: str, column: int = 1) -> set[str]:
    """Return the variables in a column of a document's tables."""
    rows = [line for line in (ROOT / document).read_text().splitlines() if line.startswith("| `")]
    return {name for row in rows for name in LISTED.findall(row.split("|")[column])}


def test_every_setting_of_the_server_is_listed_and_every_listed_one_is_read() -> None:
    read = read_by("runqy/settings.py", "runqy/gunicorn_conf.py") | {"WEB_CONCURRENCY"}

    assert read == listed_in("docs/reference/settings.md")


def test_every_setting_of_the_worker_is_listed_and_every_listed_one_is_read() -> None:
    assert read_by("workers/runtime/settings.py") == listed_in("docs/reference/worker.md", column=2) | {"RUNQY_HOME"}

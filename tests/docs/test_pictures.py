"""The pictures of README and documentation exist, are used, have alternative texts, and are small."""

import re
from pathlib import Path

from tools.benchmarks.scale_charts import draw_charts

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+\.(?:png|svg))\)")
MAX_BYTES = 250_000


def test_pictures_exist_are_small_and_have_alternative_texts() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    pictures = [
        (words, (page.parent / path).resolve()) for page in pages for words, path in PICTURE.findall(page.read_text())
    ]

    assert {path for _, path in pictures} == set((ROOT / "docs").rglob("images/*"))
    for words, path in pictures:
        assert len(words) > 20, path
        assert 1_000 < path.stat().st_size < MAX_BYTES, path


def test_readme_is_short_and_begins_with_a_picture() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) <= 120
    assert PICTURE.search("\n".join(lines[:20]))


def test_the_curves_of_the_page_on_sizing_are_those_of_the_last_run() -> None:
    """`tools/benchmarks/scale_charts.py` says how they are drawn."""
    charts = draw_charts((ROOT / "tools/benchmarks/scale.txt").read_text())

    assert {name: (ROOT / "docs/images" / name).read_text() for name in charts} == charts
    assert all(chart.count("<circle") >= 5 for chart in charts.values())

"""The README's pictures are there, say what they show, and are small."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r"!\[([^\]]*)\]\((docs/images/[^)]+)\)")
MOST_BYTES = 200_000


def test_pictures_are_there_and_small_and_told_in_words() -> None:
    pictures = PICTURE.findall((ROOT / "README.md").read_text())

    assert len(pictures) == 4
    assert {path for _, path in pictures} == {f"docs/images/{path.name}" for path in (ROOT / "docs/images").iterdir()}
    for words, path in pictures:
        assert len(words) > 20, path
        assert 10_000 < (ROOT / path).stat().st_size < MOST_BYTES, path

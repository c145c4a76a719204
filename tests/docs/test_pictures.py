"""The README's pictures exist, have alternative texts, and are small."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r"!\[([^\]]*)\]\((docs/images/[^)]+)\)")
MAX_BYTES = 250_000


def test_pictures_exist_are_small_and_have_alternative_texts() -> None:
    pictures = PICTURE.findall((ROOT / "README.md").read_text())

    assert len(pictures) == 4
    assert {path for _, path in pictures} == {f"docs/images/{path.name}" for path in (ROOT / "docs/images").iterdir()}
    for words, path in pictures:
        assert len(words) > 20, path
        assert 10_000 < (ROOT / path).stat().st_size < MAX_BYTES, path

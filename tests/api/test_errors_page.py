"""docs/reference/errors.md lists each code once, with its status."""

import re
from collections.abc import Iterator
from pathlib import Path

from runqy.errors import RunqyError

PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"


def kinds(kind: type[RunqyError] = RunqyError) -> Iterator[type[RunqyError]]:
    """Yield the project's errors, without those that tests define."""
    for sub in kind.__subclasses__():
        if sub.__module__ == RunqyError.__module__:
            yield sub
        yield from kinds(sub)


def listed() -> list[tuple[str, str]]:
    """Return the codes of the page with their statuses."""
    return re.findall(r"^\| `(\w+)` \| (\d{3}) \| \S", PAGE.read_text("utf-8"), re.MULTILINE)


def test_the_page_lists_every_code_with_its_status() -> None:
    assert sorted(listed()) == sorted((kind.code, str(kind.status)) for kind in kinds())


def test_a_code_means_one_thing() -> None:
    codes = [kind.code for kind in kinds()]

    assert len(codes) == len(set(codes))


def test_errors_have_an_error_status_and_a_message() -> None:
    for kind in kinds():
        assert 400 <= kind.status < 600, kind
        assert (kind.__doc__ or "").rstrip().endswith((".", ">")), kind

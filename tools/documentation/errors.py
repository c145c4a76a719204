"""The table of errors, from their classes."""

from collections.abc import Iterator

from runqy.errors import RunqyError
from tools.documentation.tables import cell, table


def error_table() -> str:
    rows = [(f"`{kind.code}`", str(kind.status), _message(kind)) for kind in kinds()]
    return table(("code", "status", "message"), sorted(rows, key=lambda row: (row[1], row[0])))


def kinds(kind: type[RunqyError] = RunqyError) -> Iterator[type[RunqyError]]:
    """Yield the project's errors, without those that tests define."""
    for sub in kind.__subclasses__():
        if sub.__module__ == RunqyError.__module__:
            yield sub
        yield from kinds(sub)


def _message(kind: type[RunqyError]) -> str:
    return cell(kind.__doc__ or "").replace("<", "&lt;")

"""Writes records as CSV, a line at a time."""

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC

from runqy.audit.changes import read_changes
from runqy.audit.models import AuditRecord

_COLUMNS = (
    *("number", "at", "actor_kind", "actor_name", "actor_id", "address", "request_id"),
    *("action", "object_kind", "object_name", "changes", "digest"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the begin of a formula, https://owasp.org/www-community/attacks/CSV_Injection."""


class _Echo:
    """A file that returns what is written to it."""

    def write(self, line: str) -> str:
        """Return the line."""
        return line


def csv_lines(records: Iterable[AuditRecord]) -> Iterator[str]:
    """Give the lines of a CSV file with a head."""
    writer = csv.writer(_Echo())
    yield writer.writerow(_COLUMNS)
    for record in records:
        yield writer.writerow([_harmless(cell) for cell in _cells(record)])


def _cells(record: AuditRecord) -> Iterator[str]:
    """Give the cells of a record."""
    for name in _COLUMNS:
        if name == "at":
            yield record.at.astimezone(UTC).isoformat()
        elif name == "changes":
            yield "\n".join(str(change) for change in read_changes(record.changes))
        else:
            yield str(getattr(record, name))


def _harmless(cell: str) -> str:
    """Return a cell that no spreadsheet computes."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell

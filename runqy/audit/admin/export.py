"""Export records as CSV, line by line."""

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC

from runqy.audit.admin.presenters import read_changes
from runqy.audit.models import AuditRecord

_COLUMNS = (
    *("number", "at", "recorded_at", "actor_kind", "actor_name", "actor_id", "address", "request_id"),
    *("action", "object_kind", "object_name", "changes"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that start a formula in a spreadsheet, https://owasp.org/www-community/attacks/CSV_Injection."""


class _Echo:
    """A file whose `write` returns the line, so that csv can be streamed."""

    def write(self, line: str) -> str:
        return line


def csv_lines(records: Iterable[AuditRecord]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(_COLUMNS)
    for record in records:
        yield writer.writerow([_escape(cell) for cell in _cells(record)])


def _cells(record: AuditRecord) -> Iterator[str]:
    for name in _COLUMNS:
        if name in ("at", "recorded_at"):
            time = getattr(record, name)
            yield time.astimezone(UTC).isoformat() if time else ""
        elif name == "changes":
            yield "\n".join(str(change) for change in read_changes(record.changes))
        else:
            yield str(getattr(record, name))


def _escape(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell

"""Describe audit records in words. The record's page and the export also have the exact values."""

import re
from datetime import UTC, datetime

from runqy.audit.changes import FieldChange, format_value, read_changes
from runqy.audit.models import AuditRecord
from runqy.formats import durations

_LOWER_CASE = re.compile(r"[a-z][a-z0-9_]*")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d|Z)")
_EMPTY = "empty"


def describe_field(field: str) -> str:
    """Return a field's name in words: `deployment branch` for `deployment.branch`, `expires` for `expires_at`."""
    return " ".join(
        re.sub(r"^is_|_(at|s)$", "", part).replace("_", " ") if _LOWER_CASE.fullmatch(part) else part
        for part in field.split(".")
    )


def describe_changes(record: AuditRecord) -> tuple[FieldChange, ...]:
    """Return changes with values in words. Empty values of a new object are left out."""
    changes = read_changes(record.changes, format_value=_format_value)
    empty = ("", _EMPTY) if is_new(record) else ("",)
    return tuple(
        change
        for change in changes
        if change.is_secret or change.removed or change.added or change.old or change.new not in empty
    )


def summarize(record: AuditRecord) -> str:
    """Return the changes of a record on one line: the values of a new object, otherwise those before and after."""
    changes, mark = describe_changes(record), "" if is_new(record) else "+ "
    return "; ".join(f"{describe_field(change.field)}{_summarize_field(change, mark)}" for change in changes)


def is_new(record: AuditRecord) -> bool:
    """Return whether the record is about the creation of an object, whose fields had no values before."""
    return record.action.endswith(".created")


def _summarize_field(change: FieldChange, mark: str) -> str:
    """Return the text after the name of a field. `mark` is the prefix of added items."""
    if change.is_secret:
        return " changed"
    if change.removed or change.added:
        items = (*(f"- {item}" for item in change.removed), *(f"{mark}{item}" for item in change.added))
        return f": {', '.join(items)}"
    return f": {change.old} → {change.new or 'none'}" if change.old else f": {change.new}"


def _format_value(field: str, value: object) -> str:
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if field.endswith("_s") and isinstance(value, int) and not isinstance(value, bool):
        return durations.humanize_exactly(value)
    return format_value(field, value) if value not in ("", [], {}) else _EMPTY

"""Describe audit records in words. The record's page and the export also have the exact values."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from runqy.admin_site.times import format_time
from runqy.audit.models import AuditRecord
from runqy.core.formats import durations

_LOWER_CASE = re.compile(r"[a-z][a-z0-9_]*")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d|Z)")
_EMPTY = "empty"
_SHORT_COMMIT = 12
_SECONDARY = ("author", "commit", "committed_at")
"""Fields of a commit that follow its subject: the end of a long line is not shown."""

FormatValue = Callable[[str, object], str]
"""Takes a field and its value; returns the value on one line, empty for None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """The change of one field, for display."""

    field: str
    is_secret: bool = False
    """The values are not recorded."""
    old: str = ""
    new: str = ""
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Items of a list or members of an object. If there are any, `old` and `new` are empty."""

    def __str__(self) -> str:
        if self.is_secret:
            return f"{self.field}: changed"
        if self.removed or self.added:
            moves = [*(f"- {item}" for item in self.removed), *(f"+ {item}" for item in self.added)]
            return f"{self.field}: {', '.join(moves)}"
        return f"{self.field}: {self.old or 'none'} → {self.new or 'none'}"


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
    changes = tuple(sorted(changes, key=lambda change: change.field in _SECONDARY))
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
        return format_time(datetime.fromisoformat(value))
    if field.endswith("_s") and isinstance(value, int) and not isinstance(value, bool):
        return durations.humanize_exactly(value)
    if field == "commit" and isinstance(value, str):
        return value[:_SHORT_COMMIT] or _EMPTY
    return format_value(field, value) if value not in ("", [], {}) else _EMPTY


def format_value(field: str, value: object) -> str:
    """Return a value on one line; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value if value else '""'
    if isinstance(value, dict):
        return ", ".join(f"{name} {format_value(name, item)}" for name, item in value.items()) or "{}"
    if isinstance(value, list):
        return ", ".join(format_value(field, item) for item in value) or "[]"
    return json.dumps(value)


def read_changes(encoded: str, *, format_value: FormatValue = format_value) -> tuple[FieldChange, ...]:
    """Decode the result of `encode_changes` for display."""
    return tuple(_field_change(name, change, format_value) for name, change in json.loads(encoded).items())


def _field_change(name: str, change: Mapping[str, object] | str, format_value: FormatValue) -> FieldChange:
    if isinstance(change, str):
        return FieldChange(field=name, is_secret=True)
    old, new = change["old"], change["new"]
    if any(isinstance(value, (list, dict)) and value for value in (old, new)):
        before, after = _items(name, old, format_value), _items(name, new, format_value)
        removed = tuple(item for item in before if item not in after)
        added = tuple(item for item in after if item not in before)
        if removed or added:
            return FieldChange(field=name, removed=removed, added=added)
    return FieldChange(field=name, old=format_value(name, old), new=format_value(name, new))


def _items(field: str, value: object, format_value: FormatValue) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}: {format_value(name, item)}" for name, item in value.items()]
    if isinstance(value, list):
        return [format_value(field, item) for item in value]
    return [] if value is None else [format_value(field, value)]

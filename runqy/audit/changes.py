"""The changes of an object, field by field: compare, encode, and decode them for display."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

REDACTED: Final = "changed"
"""Replaces secret values, as records cannot be deleted."""

Change = tuple[object, object] | Literal["changed"]
"""The old and the new value, each JSON, a date, or None where there is no value; or REDACTED."""

Changes = Mapping[str, Change]
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


def diff(old: Mapping[str, object], new: Mapping[str, object], *, secrets: Collection[str] = ()) -> Changes:
    """Return the changes between two states; `old` is empty for a new object, `new` for a deleted one."""
    changes: dict[str, Change] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before != after:
            changes[name] = REDACTED if name in secrets else (before, after)
    return changes


def encode_changes(changes: Changes) -> str:
    """Return changes as JSON with sorted keys, in ASCII. This text is stored and part of the digest."""
    encoded = {
        name: change if isinstance(change, str) else {"old": change[0], "new": change[1]}
        for name, change in changes.items()
    }
    return json.dumps(encoded, sort_keys=True, separators=(",", ":"), default=str)


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

"""What a change did to a thing, field by field, how that is written down, and how people read it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

CHANGED: Final = "changed"
"""Stands where the values are secret: a record can never be erased."""

Change = tuple[object, object] | Literal["changed"]
"""The old and the new value, both JSON or a date; None where there is none."""

Changes = Mapping[str, Change]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """What became of one field, in words."""

    field: str
    is_secret: bool = False
    """Then nothing else is known than that it changed."""
    old: str = ""
    new: str = ""
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Of a list, or of members of an object, that had and has others; then `old` and `new` are empty."""

    def __str__(self) -> str:
        """Say it in a line."""
        if self.is_secret:
            return f"{self.field}: changed"
        if self.removed or self.added:
            moves = [*(f"- {item}" for item in self.removed), *(f"+ {item}" for item in self.added)]
            return f"{self.field}: {', '.join(moves)}"
        return f"{self.field}: {self.old or 'none'} → {self.new or 'none'}"


def differences(old: Mapping[str, object], new: Mapping[str, object], *, secrets: Collection[str] = ()) -> Changes:
    """Return how two states of a thing differ; of a new thing `old` is empty, of a deleted one `new`."""
    changes: dict[str, Change] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before != after:
            changes[name] = CHANGED if name in secrets else (before, after)
    return changes


def encode_changes(changes: Changes) -> str:
    """Return changes as the JSON that is kept and hashed: equal changes give equal text, in ASCII."""
    told = {
        name: change if isinstance(change, str) else {"old": change[0], "new": change[1]}
        for name, change in changes.items()
    }
    return json.dumps(told, sort_keys=True, separators=(",", ":"), default=str)


def read_changes(encoded: str) -> tuple[FieldChange, ...]:
    """Return what `encode_changes` wrote, as people read it."""
    return tuple(_field_change(name, change) for name, change in json.loads(encoded).items())


def _field_change(name: str, change: Mapping[str, object] | str) -> FieldChange:
    """Return what became of one field."""
    if isinstance(change, str):
        return FieldChange(field=name, is_secret=True)
    old, new = change["old"], change["new"]
    if any(isinstance(value, (list, dict)) and value for value in (old, new)):
        before, after = _items(old), _items(new)
        removed = tuple(item for item in before if item not in after)
        added = tuple(item for item in after if item not in before)
        if removed or added:
            return FieldChange(field=name, removed=removed, added=added)
    return FieldChange(field=name, old=_said(old), new=_said(new))


def _items(value: object) -> list[str]:
    """Return the items of a list, or the members of an object."""
    if isinstance(value, dict):
        return [f"{name}: {_said(item)}" for name, item in value.items()]
    if isinstance(value, list):
        return [_said(item) for item in value]
    return [] if value is None else [_said(value)]


def _said(value: object) -> str:
    """Return a value in a line; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value if value else '""'
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(item)}" for name, item in value.items()) or "{}"
    if isinstance(value, list):
        return ", ".join(_said(item) for item in value) or "[]"
    return json.dumps(value)

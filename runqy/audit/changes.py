"""What a change did to a thing, field by field, and how that is written down."""

import json
from collections.abc import Collection, Mapping
from typing import Final, Literal

CHANGED: Final = "changed"
"""Stands where the values are secret: a record can never be erased."""

Change = tuple[object, object] | Literal["changed"]
"""The old and the new value, both JSON or a date; None where there is none."""

Changes = Mapping[str, Change]


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

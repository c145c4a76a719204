"""The changes of an object, field by field, as they are recorded."""

import json
from collections.abc import Collection, Mapping
from typing import Final, Literal

REDACTED: Final = "changed"
"""Replaces secret values, which are not recorded."""

Change = tuple[object, object] | Literal["changed"]
"""The old and the new value, each JSON, a date, or None where there is no value; or REDACTED."""

Changes = Mapping[str, Change]


def diff(old: Mapping[str, object], new: Mapping[str, object], *, secrets: Collection[str] = ()) -> Changes:
    """Return the changes between two states; `old` is empty for a new object, `new` for a deleted one."""
    changes: dict[str, Change] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before != after:
            changes[name] = REDACTED if name in secrets else (before, after)
    return changes


def encode_changes(changes: Changes) -> str:
    """Return changes as JSON with sorted keys, in ASCII."""
    encoded = {
        name: change if isinstance(change, str) else {"old": change[0], "new": change[1]}
        for name, change in changes.items()
    }
    return json.dumps(encoded, sort_keys=True, separators=(",", ":"), default=str)

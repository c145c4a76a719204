"""Entries of the log of runs as `log_run.lua` appends them. Needs no Django."""

from collections.abc import Mapping

_NAMES = ("outcome", "final", "ended", "attempt", "enqueued", "due", "started", "worker", "task", "run", "details")
"""The names of an entry's values, in order."""


def make_entry(values: Mapping[str, str | bytes]) -> dict[str, bytes]:
    """Return the fields of an entry. Values that are not given are empty."""
    given = (values.get(name, b"") for name in _NAMES)
    return {"run": b"\0".join(value.encode() if isinstance(value, str) else value for value in given)}


def split_entry(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return dict(zip(_NAMES, fields[b"run"].split(b"\0", len(_NAMES) - 1), strict=True))

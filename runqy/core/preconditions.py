"""Preconditions of changes, checked by operations under their lock. `runqy.api.etags` makes them from If-Match."""

from collections.abc import Callable

Precondition = Callable[[str | None], None]
"""Called with the current version, or None if the object does not exist. Raises PreconditionFailed."""


def accept_any(version: str | None) -> None:
    """Accept every version."""

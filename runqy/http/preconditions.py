"""Preconditions of changes, which operations check under their lock. `runqy.api.etags` makes them from If-Match."""

from collections.abc import Callable

Precondition = Callable[[str | None], None]
"""Takes the current version, None where the object does not exist. Raises PreconditionFailed for an unexpected one."""


def accept_any(version: str | None) -> None:
    """Accept every version."""

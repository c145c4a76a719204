"""Reads what clients send about the configuration of queues."""

from collections.abc import Callable
from typing import Any

from runqy.api.bodies import Members, values_of

from queues.configuring import Stated
from runqy.errors import RequestInvalid

TOLD = frozenset({"queue", "sub_queue", "source", "created_at", "updated_at"})
"""What answers tell and nobody can state: whoever reads a queue, changes it and sends it back leaves them there."""


def parse_stated(members: Members, *, name: str = "") -> Stated:
    """Return the queue that a body states; with a name, that queue as a whole, whatever the body calls it.

    Raises RequestInvalid; the rest is checked as queue files are.
    """
    written = values_of({name: raw for name, raw in members.items() if name not in TOLD})
    errors: list[str] = []

    def option(name: str, is_right: Callable[[Any], bool], rule: str) -> Any:
        if name not in written:
            return None
        if not is_right(value := written.pop(name)):
            errors.append(f"{name}: {rule}")
        return value

    called = option("name", lambda value: isinstance(value, str) and value != "", "must be the name of a queue")
    is_enabled = option("is_enabled", lambda value: isinstance(value, bool), "must be true or false")
    if not (name or called or errors):
        errors.append("name: is required")
    if errors:
        raise RequestInvalid(errors=errors)
    whole: dict[str, Any] = {"sub_queues": []} if name else {}
    return Stated(name=name or called, written=whole | written, is_enabled=is_enabled)

"""Reads what clients send about the configuration of queues."""

from collections.abc import Callable
from typing import Any

import msgspec

from queues.configuring import Stated
from runqy.api.bodies import Members
from runqy.errors import RequestInvalid


def parse_stated(members: Members) -> Stated:
    """Return the queue that a body states. Raises RequestInvalid; the rest is checked as queue files are."""
    written = {name: msgspec.json.decode(raw) for name, raw in members.items()}
    errors: list[str] = []

    def option(name: str, is_right: Callable[[Any], bool], rule: str) -> Any:
        value = written.pop(name, None)
        if value is not None and not is_right(value):
            errors.append(f"{name}: {rule}")
        return value

    name = option("name", lambda value: isinstance(value, str) and value != "", "must be the name of a queue")
    is_enabled = option("is_enabled", lambda value: isinstance(value, bool), "must be true or false")
    if name is None:
        errors.append("name: is required")
    if errors:
        raise RequestInvalid(errors=errors)
    return Stated(name=name, written=written, is_enabled=is_enabled)

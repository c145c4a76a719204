"""Reads what workers send, and names what is wrong with it."""

import re
from dataclasses import dataclass

from runqy.api.bodies import Members, values_of

from runqy.errors import RequestInvalid

WORKER_ID = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"
LONGEST_NAME = 256
_TEXTS = ("queue", "worker_id", "hostname", "os", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterInput:
    """Which worker registers for which queue; host name, system and version are for the log."""

    queue: str
    worker_id: str = ""
    hostname: str = ""
    os: str = ""
    version: str = ""


def parse_registration(members: Members) -> RegisterInput:
    """Return what a worker asks for. Raises RequestInvalid with a sentence for each wrong member."""
    errors: list[str] = []
    values = values_of({name: raw for name, raw in members.items() if name in _TEXTS})
    texts = {name: _text(values.get(name), name, errors) for name in _TEXTS}
    if not texts["queue"] and not errors:
        errors.append("queue: is required")
    if texts["worker_id"] and not re.fullmatch(WORKER_ID, texts["worker_id"]):
        errors.append("worker_id: must be letters, digits and . _ : @ -, at most 128")
    if errors:
        raise RequestInvalid(errors=errors)
    return RegisterInput(**texts)


def _text(value: object, name: str, errors: list[str]) -> str:
    """Return a member that is a text; null is as good as none."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        errors.append(f"{name}: must be a text of at most {LONGEST_NAME} characters")
        return ""
    return value

"""Reads what clients send about tasks, and names what is wrong with it."""

import msgspec

from runqy.api.bodies import Members
from runqy.errors import RequestInvalid
from tasks import payloads
from tasks.api.options import OPTIONS, GivenOptions, read_options
from tasks.task_specs import TaskSpec

LONGEST_NAME = 256
_BESIDE_PAYLOAD = {"queue", *OPTIONS}


def parse_order(members: Members) -> TaskSpec:
    """Return the task that a body asks for: nested, with the payload in `data`, or flat, with all that is no option.

    Raises RequestInvalid with a sentence for each wrong member.
    """
    given = GivenOptions({name: members.pop(name) for name in [*members] if name in _BESIDE_PAYLOAD})
    queue = read_queue(given)
    options = read_options(given)
    payload = _payload(members, given.errors)
    if given.errors:
        raise RequestInvalid(errors=given.errors)
    return TaskSpec(queue=queue, payload=payload, **options)


def read_queue(given: GivenOptions) -> str:
    """Return the name of the queue, in any spelling."""
    if "queue" not in given.given:
        given.errors.append("queue: is required")
    return given.read("queue", _name, "")


def _payload(members: Members, errors: list[str]) -> bytes:
    """Return the payload in what is left of a body without its options."""
    if "data" not in members:
        return payloads.one_line(payloads.of_members(members))
    data = read_data(members.pop("data"), errors)
    for name in members:
        errors.append(f"{name[:64]}: is unknown beside data; members of the payload belong into data")
    return data


def read_data(raw: msgspec.Raw, errors: list[str]) -> bytes:
    """Return a payload as it was sent, on one line."""
    data = bytes(raw)
    if not data.startswith(b"{"):
        errors.append("data: must be an object")
    return payloads.one_line(data)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        raise ValueError("must be the name of a queue")
    return value

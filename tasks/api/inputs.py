"""Reads what clients send about tasks, and names what is wrong with it."""

import re
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

import msgspec

from runqy import durations
from runqy.api.bodies import Members
from runqy.errors import RequestInvalid
from tasks import payloads
from tasks.operations import TaskOrder

T = TypeVar("T")

OPTIONS = ("queue", "timeout", "delay", "max_retry")
MOST_SECONDS = 10 * 365 * 24 * 3600
MOST_RETRIES = 1000
MAX_WAIT_S = 300
_LONGEST_NAME = 256

_decode = msgspec.json.decode


def parse_order(members: Members) -> TaskOrder:
    """Return the task that a body asks for: nested, with the payload in `data`, or flat, with all that is no option.

    Raises RequestInvalid with a sentence for each wrong member.
    """
    errors: list[str] = []
    given = {name: members.pop(name) for name in OPTIONS if name in members}

    def option(name: str, read: Callable[[Any], T], default: T) -> T:
        try:
            return read(_decode(given[name])) if name in given else default
        except ValueError as error:
            errors.append(f"{name}: {error}")
            return default

    queue = option("queue", _name, "")
    timeout_s = option("timeout", _seconds, None)
    delay_ns = option("delay", read_delay_ns, 0)
    max_retry = option("max_retry", _retries, None)
    if "queue" not in given:
        errors.append("queue: is required")
    payload = _payload(members, errors)
    if errors:
        raise RequestInvalid(errors=errors)
    return TaskOrder(queue=queue, payload=payload, timeout_s=timeout_s, delay_ns=delay_ns, max_retry=max_retry)


def _payload(members: Members, errors: list[str]) -> bytes:
    """Return the payload in what is left of a body without its options."""
    if "data" not in members:
        return payloads.one_line(payloads.of_members(members))
    data = bytes(members.pop("data"))
    if not data.startswith(b"{"):
        errors.append("data: must be an object")
    errors.extend(f"{name[:64]}: is unknown beside data; members of the payload belong into data" for name in members)
    return payloads.one_line(data)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        raise ValueError("must be the name of a queue")
    return value


def _seconds(value: object) -> int | None:
    """Return a timeout; 0 leaves it to the queue."""
    if not _is_whole(value) or not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"must be a whole number of seconds from 1 to {MOST_SECONDS}")
    return value or None


def _retries(value: object) -> int:
    if not _is_whole(value) or not 0 <= value <= MOST_RETRIES:
        raise ValueError(f"must be a whole number from 0 to {MOST_RETRIES}")
    return value


def read_delay_ns(value: object) -> int:
    """Return the nanoseconds of a number of seconds or of a Go duration. Raises ValueError."""
    if isinstance(value, str):
        nanoseconds = durations.parse_ns(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        nanoseconds = int(min(value, MOST_SECONDS + 1) * 10**9) if value >= 0 else -1
    else:
        nanoseconds = -1
    if not 0 <= nanoseconds <= MOST_SECONDS * 10**9:
        raise ValueError(f'must be a number of seconds up to {MOST_SECONDS}, or a duration such as "15m"')
    return nanoseconds


def read_wait_s(query: str | None, preference: str) -> float:
    """Return for how long a reader wants to wait, by `?wait=` or by the header `Prefer: wait=`; 0: not at all.

    Raises RequestInvalid for what is no span of time; a longer one than is offered becomes the longest.
    """
    if query is None:
        preferred = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)", preference)
        query = preferred[1] if preferred else "0"
    try:
        seconds = float(query) if re.fullmatch(r"[0-9]*\.[0-9]+", query) else durations.parse_ns(query) / 1e9
    except ValueError as error:
        raise RequestInvalid(errors=[f"wait: {error}"]) from error
    return min(seconds, MAX_WAIT_S)


def _is_whole(value: object) -> TypeGuard[int]:
    """Tell whether JSON held a number without fraction; Python counts booleans among them."""
    return isinstance(value, int) and not isinstance(value, bool)

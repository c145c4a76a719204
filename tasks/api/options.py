"""Reads the options of a task, single or in a batch, and names what is wrong with them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeGuard, TypeVar

import msgspec

from runqy import durations
from tasks.task_specs import NS, OnConflict, Uniqueness

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

MOST_SECONDS = 10 * 365 * 24 * 3600
MOST_RETRIES = 1000
LONGEST_UNIQUE_KEY = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_decode = msgspec.json.Decoder().decode


class UniqueUntil(StrEnum):
    """Until when a task is unique, where no time says so; also without being said."""

    FINISHED = "finished"


class GivenOptions:
    """Some members of a body; what is wrong with those that are read adds up."""

    def __init__(self, given: Mapping[str, msgspec.Raw]) -> None:
        self.given = given
        self.errors: list[str] = []

    def read(self, name: str, read: Callable[[Any], T], default: T) -> T:
        """Return a member as `read` understands it; the default where it is missing or makes no sense."""
        try:
            return read(_decode(self.given[name])) if name in self.given else default
        except ValueError as error:
            self.errors.append(f"{name}: {error}")
            return default


def read_options(members: GivenOptions) -> dict[str, Any]:
    """Return what a body says about a task beside queue and payload, as `TaskSpec` calls it."""
    options = {}
    for name in members.given:
        if name in _READERS:
            field, read, default = _READERS[name]
            options[field] = members.read(name, read, default)
    if "delay_ns" in options and "process_at_ns" in options:
        members.errors.append("process_at: goes without delay")
    if not members.given.keys().isdisjoint(UNIQUENESS):
        options["unique"] = _uniqueness(members)
    return options


def _uniqueness(members: GivenOptions) -> Uniqueness | None:
    """Return what is said about uniqueness; None: nothing."""
    key = members.read("unique_key", _unique_key, "")
    for_s = members.read("unique_for", _at_least_a_second, 0)
    on_conflict = members.read("on_conflict", _read_on_conflict, OnConflict.REJECT)
    members.read("unique_until", _read_unique_until, None)
    if "unique_for" in members.given and "unique_until" in members.given:
        members.errors.append("unique_for: goes without unique_until")
    if "unique_key" not in members.given:
        members.errors += [f"{name}: goes with unique_key" for name in UNIQUENESS[1:] if name in members.given]
        return None
    return Uniqueness(key=key, for_s=for_s, on_conflict=on_conflict)


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether JSON held a number without fraction; Python counts booleans among them."""
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: object) -> int | None:
    """Return a timeout; 0 leaves it to the queue."""
    if not is_whole(value) or not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"must be a whole number of seconds from 1 to {MOST_SECONDS}")
    return value or None


def _retention_s(value: object) -> int:
    if not is_whole(value) or not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"must be a whole number of seconds from 0 to {MOST_SECONDS}")
    return value


def _at_least_a_second(value: object) -> int:
    if not is_whole(value) or not 1 <= value <= MOST_SECONDS:
        raise ValueError(f"must be a whole number of seconds from 1 to {MOST_SECONDS}")
    return value


def _retries(value: object) -> int:
    if not is_whole(value) or not 0 <= value <= MOST_RETRIES:
        raise ValueError(f"must be a whole number from 0 to {MOST_RETRIES}")
    return value


def read_delay_ns(value: object) -> int:
    """Return the nanoseconds of a number of seconds or of a Go duration. Raises ValueError."""
    if isinstance(value, str):
        nanoseconds = durations.parse_ns(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        nanoseconds = int(min(value, MOST_SECONDS + 1) * NS) if value >= 0 else -1
    else:
        nanoseconds = -1
    if not 0 <= nanoseconds <= MOST_SECONDS * NS:
        raise ValueError(f'must be a number of seconds up to {MOST_SECONDS}, or a duration such as "15m"')
    return nanoseconds


def _moment_ns(value: object) -> int:
    """Return the Unix ns of a moment spelled as in RFC 3339."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        if moment.tzinfo is None or len(str(value)) < len("2026-01-01T00:00:00Z"):
            raise ValueError
        since = moment - _EPOCH
    except (ValueError, OverflowError):
        raise ValueError('must be a moment with its time zone, such as "2026-01-31T12:00:00Z"') from None
    if since.days <= 0:
        raise ValueError("must be a moment after 1970")
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000


def _moment_s(value: object) -> int:
    """Return the whole Unix s of a moment."""
    return _moment_ns(value) // NS


def _unique_key(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_UNIQUE_KEY:
        raise ValueError(f"must be a text of 1 to {LONGEST_UNIQUE_KEY} characters")
    return value


def _choice(kind: type[E]) -> Callable[[object], E]:
    """Return a reader of one of the words of an enumeration."""
    words = [choice.value for choice in kind]

    def read(value: object) -> E:
        if value not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return kind(value)

    return read


_READERS: dict[str, tuple[str, Callable[[Any], Any], Any]] = {
    "timeout": ("timeout_s", _seconds, None),
    "delay": ("delay_ns", read_delay_ns, 0),
    "process_at": ("process_at_ns", _moment_ns, 0),
    "deadline": ("deadline_s", _moment_s, 0),
    "max_retry": ("max_retry", _retries, None),
    "retention": ("retention_s", _retention_s, None),
}
"""Option -> what `TaskSpec` calls it, how it is read, and what stands for a missing one."""
UNIQUENESS = ("unique_key", "unique_for", "unique_until", "on_conflict")
OPTIONS = (*_READERS, *UNIQUENESS)
_read_on_conflict = _choice(OnConflict)
_read_unique_until = _choice(UniqueUntil)

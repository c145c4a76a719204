"""The options of a task in a request body: a table of their parsers and JSON schemas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeGuard

import msgspec

from runqy.errors import choices_error
from runqy.formats import durations
from tasks.task_specs import NS, OnConflict, Uniqueness

MAX_SECONDS = 10 * 365 * 24 * 3600
MAX_RETRY = 1000
MAX_UNIQUE_KEY_LENGTH = 256
MAX_NAME_LENGTH = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DAY = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).days - 1
"""A time that is rounded up to seconds stays in the year 9999."""

_decode = msgspec.json.Decoder().decode


class UniqueUntil(StrEnum):
    """When a task stops being unique, without `unique_for`."""

    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Option:
    """A member of a request body."""

    parse: Callable[[Any], Any]
    """Takes the JSON value. Raises ValueError with a message such as "Must be an integer."."""
    schema: Mapping[str, Any]
    field: str = ""
    """The TaskSpec field that it sets; empty for options that are combined into one field."""
    is_nullable: bool = False
    """Null means that the option is not set."""


class OptionParser:
    """Parses the options of a body and collects their errors."""

    def __init__(self, members: Mapping[str, msgspec.Raw]) -> None:
        self.members = members
        self.errors: list[str] = []

    def parse(self, name: str, default: Any = None) -> Any:
        """Return the value of an option, or the default if it is missing or invalid."""
        raw = self.members.get(name)
        if raw is None:
            return default
        try:
            return OPTIONS[name].parse(_decode(raw))
        except ValueError as error:
            self.errors.append(f"{name}: {error}")
            return default

    def parse_queue(self) -> str:
        """Return the name of the queue, in any spelling."""
        if "queue" not in self.members:
            self.errors.append("queue: This field is required.")
        name: str = self.parse("queue", "")
        return name

    def parse_fields(self) -> dict[str, Any]:
        """Return the TaskSpec fields that the options set."""
        fields: dict[str, Any] = {}
        for name, raw in self.members.items():
            option = OPTIONS[name]
            if option.field and not (option.is_nullable and bytes(raw) == b"null"):
                fields[option.field] = self.parse(name, _DEFAULTS[option.field])
        if "delay_ns" in fields and "process_at_ns" in fields:
            self.errors.append("process_at and delay are mutually exclusive.")
        if not self.members.keys().isdisjoint(UNIQUENESS):
            fields["unique"] = self._parse_uniqueness()
        return fields

    def _parse_uniqueness(self) -> Uniqueness | None:
        key = self.parse("unique_key", "")
        for_s = self.parse("unique_for", 0)
        on_conflict = self.parse("on_conflict", OnConflict.REJECT)
        self.parse("unique_until")
        if "unique_for" in self.members and "unique_until" in self.members:
            self.errors.append("unique_for and unique_until are mutually exclusive.")
        if "unique_key" not in self.members:
            self.errors += [f"{name}: requires unique_key." for name in UNIQUENESS[1:] if name in self.members]
            return None
        return Uniqueness(key=key, for_s=for_s, on_conflict=on_conflict)


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer. In Python, booleans are integers too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(lowest: int, highest: int, unit: str = "") -> Callable[[object], int]:
    def parse(value: object) -> int:
        if not is_integer(value) or not lowest <= value <= highest:
            raise ValueError(f"Must be an integer{unit} from {lowest} to {highest}.")
        return value

    return parse


def _timeout_s(value: object) -> int | None:
    """Return a timeout in whole s, rounded up; None for 0, which means the queue's timeout."""
    return -(-_duration_ns(value) // NS) or None


def _duration_ns(value: object) -> int:
    """Return the ns of a number of seconds, or of a duration as Go writes it. Raise ValueError."""
    if isinstance(value, str):
        try:
            nanoseconds = durations.parse_ns(value)
        except ValueError as error:
            raise ValueError(f"{error}.") from None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # Limited first: a very large number of seconds is infinite in ns, which int() refuses.
        nanoseconds = int(min(value, MAX_SECONDS + 1) * NS) if value >= 0 else -1
    else:
        nanoseconds = -1
    if not 0 <= nanoseconds <= MAX_SECONDS * NS:
        raise ValueError(f'Must be a number of seconds up to {MAX_SECONDS}, or a duration such as "15m".')
    return nanoseconds


def _timestamp_ns(value: object) -> int:
    try:
        timestamp = datetime.fromisoformat(value if isinstance(value, str) else "")
        # `fromisoformat` accepts more than RFC 3339, such as dates without a time.
        if timestamp.tzinfo is None or len(str(value)) < len("2026-01-01T00:00:00Z"):
            raise ValueError
        since = timestamp - _EPOCH
    except (ValueError, OverflowError):
        raise ValueError('Must be a timestamp with its time zone, such as "2026-01-31T12:00:00Z".') from None
    if not 0 < since.days <= _LAST_DAY:
        raise ValueError("Must be a timestamp after 1970 and before the last day of 9999.")
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000


def _timestamp_s(value: object) -> int:
    return _timestamp_ns(value) // NS


def _queue_name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH:
        raise ValueError("Must be the name of a queue.")
    return value


def _unique_key(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_UNIQUE_KEY_LENGTH:
        raise ValueError(f"Must be a string of 1 to {MAX_UNIQUE_KEY_LENGTH} characters.")
    return value


def _choice(kind: type[StrEnum]) -> Callable[[object], StrEnum]:
    choices = [choice.value for choice in kind]

    def parse(value: object) -> StrEnum:
        if value not in choices:
            raise ValueError(choices_error(choices))
        return kind(value)

    return parse


def _seconds_schema(lowest: int, description: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": lowest, "maximum": MAX_SECONDS, "description": description}


def _duration_schema(description: str, *types: str) -> dict[str, Any]:
    return {
        "type": ["number", "string", *types],
        "minimum": 0,
        "maximum": MAX_SECONDS,
        "description": f"{description}: seconds, or a duration such as `15m`",
    }


def _timestamp_schema(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "date-time", "description": description}


OPTIONS: Mapping[str, Option] = {
    "queue": Option(
        _queue_name,
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_NAME_LENGTH,
            "description": "`inference`, or one of its sub-queues: `inference_high`",
        },
    ),
    "timeout": Option(_timeout_s, _duration_schema("How long one run may take", "null"), "timeout_s", is_nullable=True),
    "delay": Option(_duration_ns, _duration_schema("Time until the task may start"), "delay_ns"),
    "process_at": Option(
        _timestamp_ns, _timestamp_schema("Mutually exclusive with `delay`; in the past: at once"), "process_at_ns"
    ),
    "deadline": Option(_timestamp_s, _timestamp_schema("The task does not run after this"), "deadline_s"),
    "max_retry": Option(_integer(0, MAX_RETRY), {"type": "integer", "minimum": 0, "maximum": MAX_RETRY}, "max_retry"),
    "retention": Option(
        _integer(0, MAX_SECONDS, " of seconds"), _seconds_schema(0, "Seconds to keep the result"), "retention_s"
    ),
    "unique_key": Option(
        _unique_key,
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_UNIQUE_KEY_LENGTH,
            "description": "No two unfinished tasks of a Redis queue have the same key",
        },
    ),
    "unique_for": Option(
        _integer(1, MAX_SECONDS, " of seconds"),
        _seconds_schema(1, "Seconds of uniqueness, at most until the end of the task"),
    ),
    "unique_until": Option(
        _choice(UniqueUntil),
        {"type": "string", "enum": [u.value for u in UniqueUntil], "description": "Without `unique_for`"},
    ),
    "on_conflict": Option(
        _choice(OnConflict),
        {
            "type": "string",
            "enum": [conflict.value for conflict in OnConflict],
            "description": "`return`: 200 with the task that holds the key; `reject`: 409",
        },
    ),
}
"""All members of a body except the payload."""
UNIQUENESS = ("unique_key", "unique_for", "unique_until", "on_conflict")
_DEFAULTS: dict[str, Any] = {
    "timeout_s": None,
    "delay_ns": 0,
    "process_at_ns": 0,
    "deadline_s": 0,
    "max_retry": None,
    "retention_s": None,
}
"""The values of invalid options, which are used until the request is refused."""

"""Parse the bodies of `POST /queue/add` and `/queue/add-batch`, for DRF's viewsets and the data plane.

The table of options has their parsers and their JSON schemas.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, TypeGuard

import msgspec

from queues.webhook_urls import TASK_EVENTS, URL_MAX_LENGTH, parse_url
from runqy.api.parsers import Members, decode_members, parse_idempotency_key
from runqy.broker.streams.ends import Notify
from runqy.broker.tasks.enqueue import OF_QUEUE, IdempotencyKey, NewTask
from runqy.core.api_keys import Identity
from runqy.core.formats import durations
from runqy.core.formats.json_decoding import MAX_MEMBERS, read_members
from runqy.errors import BatchTooLarge, RequestInvalid, choices_error
from tasks import payloads
from tasks.enqueue_many import MAX_REQUEST_TASKS, RequestedItem, RequestedTasks, check_size
from tasks.operations import key_of_task_id

MAX_SECONDS = 10 * 365 * 24 * 3600
MAX_RETRY = 1000
MAX_UNIQUE_KEY_LENGTH = 256
MAX_NAME_LENGTH = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DAY = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).days - 1
"""A time that is rounded up to seconds stays in the year 9999."""

_NS = 10**9
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_decode = msgspec.json.Decoder().decode
UNIQUENESS = ("unique_key", "unique_for", "unique_until", "on_conflict")
MAX_UNCOUNTED_COMMAS = 200_000
"""With more commas the jobs may be too many to decode before they are counted: each takes some 70 bytes."""


class OnConflict(StrEnum):
    """What to do when another task has the same unique key."""

    REJECT = "reject"
    RETURN = "return"


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
    """The field of a task that it sets; empty for options that are checked together."""
    is_nullable: bool = False
    """Null means that the option is not set."""
    needs_data: bool = False
    """In a flat body the name belongs to the payload."""


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
        """Return the fields of a task that the options set."""
        fields: dict[str, Any] = {}
        for name, raw in self.members.items():
            option = OPTIONS[name]
            if option.field and not (option.is_nullable and bytes(raw) == b"null"):
                fields[option.field] = self.parse(name)
        if "delay_ns" in fields and "process_at_us" in fields:
            self.errors.append("process_at and delay are mutually exclusive.")
        if not self.members.keys().isdisjoint(UNIQUENESS):
            fields |= self._parse_uniqueness()
        return fields

    def _parse_uniqueness(self) -> dict[str, Any]:
        key = self.parse("unique_key", "")
        for_s = self.parse("unique_for", 0)
        on_conflict = self.parse("on_conflict", OnConflict.REJECT)
        self.parse("unique_until")
        if "unique_for" in self.members and "unique_until" in self.members:
            self.errors.append("unique_for and unique_until are mutually exclusive.")
        if "unique_key" not in self.members:
            self.errors += [f"{name}: requires unique_key." for name in UNIQUENESS[1:] if name in self.members]
            return {}
        return {"unique_key": key, "unique_for_s": for_s, "returns_existing": on_conflict is OnConflict.RETURN}


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer. In Python, booleans are integers too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(lowest: int, highest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if not is_integer(value) or not lowest <= value <= highest:
            raise ValueError(f"Must be an integer from {lowest} to {highest}.")
        return value

    return parse


def _timeout_s(value: object) -> int:
    """Return a timeout in whole s. 0 means the queue's timeout."""
    return _duration_s(value) or OF_QUEUE


def _unique_for_s(value: object) -> int:
    return _duration_s(value, lowest_s=1)


def _duration_s(value: object, lowest_s: int = 0) -> int:
    """Return the s of a duration, rounded up, so that a short one does not become 0. Raise ValueError."""
    return -(-_duration_ns(value, lowest_s) // _NS)


def _duration_ns(value: object, lowest_s: int = 0) -> int:
    """Return the ns of a number of seconds, or of a duration as Go writes it. Raise ValueError."""
    if isinstance(value, str):
        try:
            nanoseconds = durations.parse_ns(value)
        except ValueError as error:
            raise ValueError(f"{error}.") from None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # Limited first: a very large number of seconds is infinite in ns, which int() refuses.
        nanoseconds = int(min(value, MAX_SECONDS + 1) * _NS) if value >= 0 else -1
    else:
        nanoseconds = -1
    if not lowest_s * _NS <= nanoseconds <= MAX_SECONDS * _NS:
        raise ValueError(f'Must be a number of seconds from {lowest_s} to {MAX_SECONDS}, or a duration such as "15m".')
    return nanoseconds


def _timestamp_us(value: object) -> int:
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
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _timestamp_s(value: object) -> int:
    return _timestamp_us(value) // 1_000_000


def _queue_name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH:
        raise ValueError("Must be the name of a queue.")
    return value


def _task_id(value: object) -> str:
    # The canonical spelling alone: it becomes part of keys, and responses have it as it was sent.
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise ValueError("Must be a UUID in lower case, such as a random one of version 4.")
    return value


def _unique_key(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_UNIQUE_KEY_LENGTH:
        raise ValueError(f"Must be a string of 1 to {MAX_UNIQUE_KEY_LENGTH} characters.")
    return value


def _webhook(value: object) -> Notify:
    rule = 'Must be an object such as {"url": "https://hooks.example.com/x", "events": ["task.completed"]}.'
    if not isinstance(value, dict) or not {"url"} <= value.keys() <= {"url", "events"}:
        raise ValueError(rule)
    url, events = value["url"], value.get("events", TASK_EVENTS)
    try:
        parse_url(url if isinstance(url, str) else "")
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    if not isinstance(events, list | tuple) or not events or not {*TASK_EVENTS}.issuperset(map(str, events)):
        raise ValueError(f"events: Must be a list of {' and '.join(TASK_EVENTS)}, or one of these.")
    return Notify(include_result=True, url=url, events=tuple(each for each in TASK_EVENTS if each in events))


def _choice(kind: type[StrEnum]) -> Callable[[object], StrEnum]:
    choices = [choice.value for choice in kind]

    def parse(value: object) -> StrEnum:
        if value not in choices:
            raise ValueError(choices_error(choices))
        return kind(value)

    return parse


def _duration_schema(description: str, *types: str, lowest_s: int = 0) -> dict[str, Any]:
    return {
        "type": ["number", "string", *types],
        "minimum": lowest_s,
        "maximum": MAX_SECONDS,
        "description": f"{description}: seconds, or a duration such as `15m`",
    }


def _timestamp_schema(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "date-time", "description": description}


# In a flat body each of these names is taken from the payload. A further option needs `data`, or payloads that have a
# member of its name change.
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
        _timestamp_us,
        _timestamp_schema("Mutually exclusive with `delay`; a time in the past: immediately"),
        "process_at_us",
    ),
    "deadline": Option(_timestamp_s, _timestamp_schema("The task does not run after this time"), "deadline_s"),
    "max_retry": Option(_integer(0, MAX_RETRY), {"type": "integer", "minimum": 0, "maximum": MAX_RETRY}, "max_retry"),
    "retention": Option(_duration_s, _duration_schema("How long the result is kept"), "retention_s"),
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
        _unique_for_s,
        _duration_schema("How long it is unique, at most until the end of the task", lowest_s=1),
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
    "task_id": Option(
        _task_id,
        {
            "type": "string",
            "format": "uuid",
            "description": "An id that the client made: for 24 hours the same request returns that task; needs `data`",
        },
        "id",
        needs_data=True,
    ),
    "webhook": Option(
        _webhook,
        {
            "type": "object",
            "properties": {
                "url": {
                    "type": "string",
                    "maxLength": URL_MAX_LENGTH,
                    "description": "Its host is one of the queue's `webhook_hosts`",
                },
                "events": {
                    "type": "array",
                    "items": {"type": "string", "enum": list(TASK_EVENTS)},
                    "minItems": 1,
                    "description": "Both by default",
                },
            },
            "required": ["url"],
            "additionalProperties": False,
            "description": "Where the end of the task is sent to; needs `data`",
        },
        "notify",
        needs_data=True,
    ),
}
"""All members of a body except the payload."""

SHARED_OPTIONS = tuple(name for name in OPTIONS if name not in (*UNIQUENESS, "task_id"))
"""The queue of `/queue/add-batch`, and options that apply to jobs without their own value."""
_JOB_OPTIONS = tuple(name for name in OPTIONS if name != "queue")
_JOB_MEMBERS = {"data", *_JOB_OPTIONS}
_FLAT_OPTIONS = {name for name, option in OPTIONS.items() if not option.needs_data}

_decode_jobs = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_job = msgspec.json.Decoder(Members).decode


@cache
def _limited_jobs() -> "msgspec.json.Decoder[msgspec.Struct]":
    # A struct with a field for each job refuses a longer list before the list is decoded.
    fields = [(f"job{number}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for number in range(MAX_REQUEST_TASKS)]
    return msgspec.json.Decoder(msgspec.defstruct("Jobs", fields, array_like=True, forbid_unknown_fields=True))


def parse_enqueue(body: bytes) -> NewTask:
    """Return the requested task. The payload is in `data`; in a flat body it is all members but the options.

    Raise RequestInvalid with a message for each wrong member.
    """
    members = decode_members(body)
    known = OPTIONS if "data" in members else _FLAT_OPTIONS
    options = OptionParser({name: members.pop(name) for name in [*members] if name in known})
    queue = options.parse_queue()
    fields = options.parse_fields()
    payload = _parse_payload(members, options.errors)
    if options.errors:
        raise RequestInvalid(errors=options.errors)
    return NewTask.requested(queue=queue, payload=payload, **fields)


def parse_enqueue_key(key: str | None, *, identity: Identity, body: bytes, task: NewTask) -> IdempotencyKey | None:
    """Return the idempotency key of a request, from its header or the id that the client made. Raise RequestInvalid."""
    parsed = parse_idempotency_key(key, identity=identity, kind="task", body=body)
    return key_of_task_id(task, identity.owner, parsed) if task.id else parsed


def parse_add_batch(body: bytes) -> RequestedTasks:
    """Return the requested tasks. An invalid job is replaced by its error.

    Raise RequestInvalid for errors of the whole request, BatchTooLarge.
    """
    return parse_jobs(decode_members(body))


def parse_jobs(members: Members) -> RequestedTasks:
    """Return the tasks of `jobs`, with the queue and options beside it. Other members are errors."""
    jobs = members.pop("jobs", None)
    options = OptionParser({name: members.pop(name) for name in SHARED_OPTIONS if name in members})
    queue = options.parse_queue()
    shared = options.parse_fields()
    raw_jobs = _parse_jobs(jobs, options.errors)
    options.errors.extend(f"{name[:64]}: unknown." for name in members)
    if options.errors:
        raise RequestInvalid(errors=options.errors)
    check_size(len(raw_jobs))
    return RequestedTasks(queue, [_parse_job(queue, job, shared) for job in raw_jobs])


def enqueue_schema() -> dict[str, Any]:
    properties = {name: dict(option.schema) for name, option in OPTIONS.items()}
    payload = {"description": "The payload: any JSON, or an object if the queue has a payload schema"}
    return {
        "type": "object",
        "description": "A flat body has the payload's members instead of `data`.",
        "properties": {"queue": properties.pop("queue"), "data": payload, **properties},
        "required": ["queue"],
    }


def add_batch_schema() -> dict[str, Any]:
    properties = {name: dict(OPTIONS[name].schema) for name in SHARED_OPTIONS}
    jobs = {
        "type": "array",
        "items": {},
        "minItems": 1,
        "maxItems": MAX_REQUEST_TASKS,
        "description": "Payloads, or objects with the payload in `data` and options for the job",
    }
    return {
        "type": "object",
        "description": "Options apply to all jobs without a value of their own.",
        "properties": {"queue": properties.pop("queue"), "jobs": jobs, **properties},
        "required": ["queue", "jobs"],
    }


def _parse_payload(members: Members, errors: list[str]) -> bytes:
    if "data" not in members:
        return payloads.to_one_line(payloads.encode_members(members))
    data = payloads.to_one_line(bytes(members.pop("data")))
    for name in members:
        errors.append(f"{name[:64]}: unknown; members of the payload must be in data.")
    return data


def _parse_jobs(raw: msgspec.Raw | None, errors: list[str]) -> list[msgspec.Raw]:
    """Return the jobs of a request, not decoded. Raise BatchTooLarge for so many that they would fill the memory."""
    if raw is None:
        errors.append("jobs: This field is required.")
    elif not bytes(raw).startswith(b"["):
        errors.append("jobs: Must be a list.")
    # Each comma follows at least one byte of a job, so a shorter list need not be counted.
    elif len(memoryview(raw)) < 2 * MAX_UNCOUNTED_COMMAS or bytes(raw).count(b",") <= MAX_UNCOUNTED_COMMAS:
        return _decode_jobs(raw)
    else:
        try:
            jobs = msgspec.structs.astuple(_limited_jobs().decode(raw))
        except msgspec.ValidationError:
            raise BatchTooLarge(f"jobs: more than {MAX_REQUEST_TASKS} tasks; send several requests.") from None
        return [job for job in jobs if job is not msgspec.UNSET]
    return []


def _parse_job(queue: str, job: msgspec.Raw, shared: dict[str, Any]) -> RequestedItem:
    text = bytes(job)
    # Most jobs are payloads: only what may have the member `data`, also with an escape in its name, is decoded.
    may_be_nested = text.startswith(b"{") and (b'"data"' in text or b"\\u" in text)
    members = _decode_options(text) if may_be_nested else {}
    # A job without `data` is itself the payload.
    if "data" not in members:
        return NewTask.requested(queue=queue, payload=payloads.to_one_line(text), **shared)
    data = members.pop("data")
    options = OptionParser(members)
    own = options.parse_fields()
    payload = payloads.to_one_line(bytes(data))
    if options.errors:
        return RequestInvalid(errors=options.errors)
    # The two are mutually exclusive, so a job's own time replaces the shared one of either kind.
    if "delay_ns" in own or "process_at_us" in own:
        shared = {name: value for name, value in shared.items() if name not in ("delay_ns", "process_at_us")}
    return NewTask.requested(queue=queue, payload=payload, **shared | own)


def _decode_options(job: bytes) -> Members:
    """Return the members of a job that is an object; none if it has members other than `data` and options."""
    if job.count(b":") > MAX_MEMBERS:
        try:
            return read_members(job, _JOB_MEMBERS, may_have_others=False)
        except msgspec.ValidationError:
            return {}
    members = _decode_job(job)
    return members if members.keys() <= _JOB_MEMBERS else {}

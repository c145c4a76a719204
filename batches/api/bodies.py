"""Parse the bodies of `POST /batches` and `POST /batches/{id}/add`. Jobs are those of `/queue/add-batch`."""

from typing import Any

import msgspec

from batches.models import NAME_MAX_LENGTH, Condition
from batches.operations import CallbackSpec
from runqy.api.parsers import Members, decode_members, decode_values
from runqy.broker.tasks.enqueue import NewTask
from runqy.errors import RequestInvalid, choices_error
from tasks.api.enqueue_bodies import OPTIONS, add_batch_schema, parse_enqueue, parse_jobs
from tasks.enqueue_many import RequestedTasks

_SINGLE = ("queue", "task_id", "process_at")
"""Options of a single task that a callback has not: it is enqueued when its condition is met."""
_CALLBACK_OPTIONS = tuple(name for name in OPTIONS if name not in _SINGLE)

_MISSING = object()
_decode_object = msgspec.json.Decoder(Members).decode


class CreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /batches`."""

    name: str = ""
    callback: CallbackSpec | None = None
    jobs: RequestedTasks | None = None
    is_closed: bool = False


def parse_create(body: bytes) -> CreateBody:
    """Raise RequestInvalid, BatchTooLarge. An invalid job is replaced by its error."""
    members = decode_members(body)
    values = decode_values({name: members.pop(name) for name in ("name", "close", "on") if name in members})
    errors: list[str] = []
    name = _parse_text(values.get("name", ""), errors)
    is_closed = values.get("close", False)
    if not isinstance(is_closed, bool):
        errors.append("close: Must be true or false.")
    callback = _parse_callback(members.pop("callback", None), values.get("on", _MISSING), errors)
    if errors:
        raise RequestInvalid(errors=errors)
    return CreateBody(name=name, callback=callback, is_closed=is_closed, jobs=parse_jobs(members) if members else None)


def _parse_text(name: Any, errors: list[str]) -> str:
    if not isinstance(name, str) or len(name) > NAME_MAX_LENGTH or "\0" in name:
        errors.append(f"name: Must be a text of at most {NAME_MAX_LENGTH} characters.")
        return ""
    return name


def _parse_callback(callback: msgspec.Raw | None, on: Any, errors: list[str]) -> CallbackSpec | None:
    if callback is None:
        if on is not _MISSING:
            errors.append("on: requires callback.")
        return None
    condition = Condition.ENDED if on is _MISSING else on
    if condition not in Condition.values:
        errors.append(f"on: {choices_error(Condition.values)}")
        condition = Condition.ENDED
    try:
        described = _read_object(callback, "callback: Must be an object with queue, payload and options.")
    except RequestInvalid as error:
        errors += error.errors
        return None
    try:
        return CallbackSpec(task=_parse_callback_task(described), on=Condition(condition))
    except RequestInvalid as error:
        errors += [f"callback.{message}" for message in error.errors]
    return None


def _parse_callback_task(members: Members) -> NewTask:
    """Return the task of a callback. Raise RequestInvalid, with names of members relative to the callback."""
    payload = members.pop("payload", msgspec.Raw(b"{}"))
    if "batch" in _read_object(payload, "payload: Must be an object."):
        raise RequestInvalid(errors=["payload: batch: The server sets this member."])
    options = _read_object(members.pop("options", msgspec.Raw(b"{}")), "options: Must be an object.")
    errors = [_describe_unknown(name) for name in members if name != "queue"]
    known = ", ".join(_CALLBACK_OPTIONS)
    errors += [
        f"options.{name[:64]}: Unknown option. Options: {known}." for name in options if name not in _CALLBACK_OPTIONS
    ]
    if errors:
        raise RequestInvalid(errors=errors)
    queue = {"queue": members["queue"]} if "queue" in members else {}
    return parse_enqueue(msgspec.json.encode({**options, **queue, "data": payload}))


def _describe_unknown(name: str) -> str:
    if name == "on":
        return "on: Belongs beside callback."
    if name in _CALLBACK_OPTIONS:
        return f"{name}: Belongs into options."
    return f"{name[:64]}: Unknown member. Members: queue, payload, options."


def _read_object(raw: msgspec.Raw, message: str) -> Members:
    try:
        return _decode_object(raw)
    except (msgspec.DecodeError, RecursionError):
        raise RequestInvalid(errors=[message]) from None


def add_schema() -> dict[str, Any]:
    return add_batch_schema()


def parse_add(body: bytes) -> RequestedTasks:
    """Raise RequestInvalid, BatchTooLarge. An invalid job is replaced by its error."""
    return parse_jobs(decode_members(body))


def create_schema() -> dict[str, Any]:
    jobs = add_batch_schema()["properties"]
    options = {name: dict(OPTIONS[name].schema) for name in _CALLBACK_OPTIONS}
    callback = {
        "type": "object",
        "description": "A task that is enqueued once, when the condition in `on` is met. Its payload gets the member "
        "`batch`: id, name, total, counts and url of the batch",
        "properties": {
            "queue": dict(OPTIONS["queue"].schema),
            "payload": {"type": "object", "additionalProperties": True},
            "options": {"type": "object", "properties": options},
        },
        "required": ["queue"],
    }
    return {
        "type": "object",
        "description": "`queue`, `jobs` and the options beside them are those of `/queue/add-batch`.",
        "properties": {
            "name": {"type": "string", "maxLength": NAME_MAX_LENGTH},
            "callback": callback,
            "on": {"type": "string", "enum": list(Condition.values), "description": "`ended` by default"},
            "close": {"type": "boolean", "description": "Nothing is added later"},
            **jobs,
        },
        "additionalProperties": False,
    }

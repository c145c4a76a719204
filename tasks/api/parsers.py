"""Parse the bodies of `POST /queue/add` and `/queue/add-batch`, for DRF's viewsets and the data plane.

`options` parses the options. Its table is also the source of the bodies' OpenAPI schemas.
"""

from functools import cache
from typing import Any

import msgspec

from runqy.api.parsers import Members, decode_members
from runqy.errors import BatchTooLarge, RequestInvalid
from runqy.formats.json_decoding import MAX_MEMBERS, read_members
from tasks import payloads
from tasks.api.options import OPTIONS, UNIQUENESS, OptionParser
from tasks.batches import MAX_BATCH_TASKS, BatchItem, BatchSpec, check_size
from tasks.task_specs import TaskSpec

SHARED_OPTIONS = tuple(name for name in OPTIONS if name not in UNIQUENESS)
"""The queue of a batch, and options that apply to jobs without their own value."""
_JOB_OPTIONS = tuple(name for name in OPTIONS if name != "queue")
_JOB_MEMBERS = {"data", *_JOB_OPTIONS}

_decode_jobs = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_job = msgspec.json.Decoder(Members).decode

MAX_UNCOUNTED_COMMAS = 200_000
"""With more commas the jobs may be too many to decode before they are counted: each takes some 70 bytes."""


@cache
def _limited_jobs() -> "msgspec.json.Decoder[msgspec.Struct]":
    # A struct with a field for each job refuses a longer list before the list is decoded.
    fields = [(f"job{number}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for number in range(MAX_BATCH_TASKS)]
    return msgspec.json.Decoder(msgspec.defstruct("Jobs", fields, array_like=True, forbid_unknown_fields=True))


def parse_enqueue(body: bytes) -> TaskSpec:
    """Return the requested task. The payload is in `data`; in a flat body it is all members but the options.

    Raise RequestInvalid with a message for each wrong member.
    """
    members = decode_members(body)
    options = OptionParser({name: members.pop(name) for name in [*members] if name in OPTIONS})
    queue = options.parse_queue()
    fields = options.parse_fields()
    payload = _parse_payload(members, options.errors)
    if options.errors:
        raise RequestInvalid(errors=options.errors)
    return TaskSpec(queue=queue, payload=payload, **fields)


def parse_batch(body: bytes) -> BatchSpec:
    """Return the requested batch. An invalid job is replaced by its error.

    Raise RequestInvalid for errors of the whole batch, BatchTooLarge.
    """
    members = decode_members(body)
    jobs = members.pop("jobs", None)
    options = OptionParser({name: members.pop(name) for name in SHARED_OPTIONS if name in members})
    queue = options.parse_queue()
    shared = options.parse_fields()
    raw_jobs = _parse_jobs(jobs, options.errors)
    options.errors.extend(f"{name[:64]}: unknown." for name in members)
    if options.errors:
        raise RequestInvalid(errors=options.errors)
    check_size(len(raw_jobs))
    return BatchSpec(queue, [_parse_job(queue, job, shared) for job in raw_jobs])


def enqueue_schema() -> dict[str, Any]:
    properties = {name: dict(option.schema) for name, option in OPTIONS.items()}
    payload = {"description": "The payload: any JSON, or an object if the queue has a payload schema"}
    return {
        "type": "object",
        "description": "A flat body has the payload's members instead of `data`.",
        "properties": {"queue": properties.pop("queue"), "data": payload, **properties},
        "required": ["queue"],
    }


def batch_schema() -> dict[str, Any]:
    properties = {name: dict(OPTIONS[name].schema) for name in SHARED_OPTIONS}
    jobs = {
        "type": "array",
        "items": {},
        "minItems": 1,
        "maxItems": MAX_BATCH_TASKS,
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
    """Return the jobs of a batch, not decoded. Raise BatchTooLarge for so many that they would fill the memory."""
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
            raise BatchTooLarge(f"jobs: more than {MAX_BATCH_TASKS} tasks; send several requests.") from None
        return [job for job in jobs if job is not msgspec.UNSET]
    return []


def _parse_job(queue: str, job: msgspec.Raw, shared: dict[str, Any]) -> BatchItem:
    text = bytes(job)
    # Most jobs are payloads: only what may have the member `data`, also with an escape in its name, is decoded.
    may_be_nested = text.startswith(b"{") and (b'"data"' in text or b"\\u" in text)
    members = _decode_options(text) if may_be_nested else {}
    # A job without `data` is itself the payload.
    if "data" not in members:
        return TaskSpec(queue=queue, payload=payloads.to_one_line(text), **shared)
    data = members.pop("data")
    options = OptionParser(members)
    own = options.parse_fields()
    payload = payloads.to_one_line(bytes(data))
    if options.errors:
        return RequestInvalid(errors=options.errors)
    # The two are mutually exclusive, so a job's own time replaces the batch's of either kind.
    if "delay_ns" in own or "process_at_ns" in own:
        shared = {name: value for name, value in shared.items() if name not in ("delay_ns", "process_at_ns")}
    return TaskSpec(queue=queue, payload=payload, **shared | own)


def _decode_options(job: bytes) -> Members:
    """Return the members of a job that is an object; none if it has members other than `data` and options."""
    if job.count(b":") > MAX_MEMBERS:
        try:
            return read_members(job, _JOB_MEMBERS, may_have_others=False)
        except msgspec.ValidationError:
            return {}
    members = _decode_job(job)
    return members if members.keys() <= _JOB_MEMBERS else {}

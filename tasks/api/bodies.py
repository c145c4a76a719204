"""The bodies of the hot routes, parsed and rendered for DRF's viewsets and the data plane.

The option table and the structs are also where the serializers' OpenAPI schemas come from.
"""

import threading
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from runqy import durations
from runqy.api.parsers import Members, decode_members
from runqy.api.renderers import format_ns, format_s
from runqy.broker.message import REQUEST_ID, TRACEPARENT
from runqy.broker.states import TaskState
from runqy.broker.task_record import TaskProgress, TaskRecord
from runqy.errors import BatchTooLarge, RequestInvalid
from tasks import payloads
from tasks.api.options import OPTIONS, UNIQUENESS, OptionParser
from tasks.batches import MAX_BATCH_TASKS, BatchItem, BatchSpec, EnqueuedBatch, check_size
from tasks.operations import EnqueuedTask
from tasks.task_specs import TaskSpec

SHARED_OPTIONS = tuple(name for name in OPTIONS if name not in UNIQUENESS)
"""The queue of a batch, and options that apply to jobs without a value of their own."""
_JOB_OPTIONS = tuple(name for name in OPTIONS if name != "queue")
_JOB_MEMBERS = {"data", *_JOB_OPTIONS}

_decode_jobs = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_job = msgspec.json.Decoder(Members).decode

MAX_UNCOUNTED_COMMAS = 200_000
"""A batch with more commas is counted before it is decoded: each decoded job takes some 70 bytes."""


class _JobCount(threading.local):
    """The number of jobs of a batch that this thread has counted."""

    value = 0


_job_count = _JobCount()


def _count_job() -> None:
    _job_count.value += 1
    if _job_count.value > MAX_BATCH_TASKS:
        raise BatchTooLarge(f"jobs: more than {MAX_BATCH_TASKS} tasks.")


@dataclass(slots=True)
class _ObjectJob:
    """A job that is an object, counted and not kept. Not a struct: a union may have only one."""

    def __post_init__(self) -> None:
        _count_job()


class _ListJob(msgspec.Struct, array_like=True):
    """A job that is a list, counted and not kept."""

    def __post_init__(self) -> None:
        _count_job()


_count_jobs = msgspec.json.Decoder(list[_ObjectJob | _ListJob]).decode


_Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})] | None


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A task. Payload and result keep their bytes."""

    id: str
    type: Annotated[str, msgspec.Meta(description="The Redis queue, as in asynq's tools")]
    queue: Annotated[str, msgspec.Meta(description="The Redis queue")]
    state: TaskState
    payload: Annotated[Any, msgspec.Meta(description="The request's bytes, with the schema's defaults")]
    # Before `result`: Go's decoders ignore case, and keep the last one.
    result_text: (
        Annotated[
            str, msgspec.Meta(description="In `GET /queue/{task_id}`: the JSON text of a result that is a string")
        ]
        | msgspec.UnsetType
    ) = msgspec.field(default=msgspec.UNSET, name="Result")
    result: Annotated[Any, msgspec.Meta(description="A string where the result is not JSON")]
    max_retry: int
    retried: int
    last_err: Annotated[str, msgspec.Meta(description="The error of the last failed run")]
    error: Annotated[str | None, msgspec.Meta(description="The error, if it is archived")]
    timeout: Annotated[str, msgspec.Meta(description="Of one run, as a Go duration such as 10m0s")]
    deadline: _Timestamp
    next_process_at: _Timestamp
    enqueued_at: _Timestamp
    started_at: Annotated[_Timestamp, msgspec.Meta(description="Start of the last run")]
    completed_at: _Timestamp
    worker_id: str | None
    request_id: Annotated[str | None, msgspec.Meta(description="X-Request-ID of the request that created it")]
    traceparent: Annotated[str | None, msgspec.Meta(description="The trace of that request (W3C Trace Context)")]
    progress: Annotated[TaskProgress | None, msgspec.Meta(description="Of the last run, if its handler reports it")]


class TaskDetail(TaskInfo, frozen=True, kw_only=True):
    """A task with all details."""

    attempts: Annotated[int, msgspec.Meta(description="Runs that began and counted")]
    pending_since: _Timestamp
    last_failed_at: _Timestamp
    archived_at: _Timestamp
    expires_at: Annotated[_Timestamp, msgspec.Meta(description="When it is deleted")]
    lease_ends_at: Annotated[_Timestamp, msgspec.Meta(description="When its worker's lease expires")]
    cancel_asked_at: _Timestamp
    is_canceled: bool
    child_deaths: int
    retention_secs: Annotated[int, msgspec.Meta(description="How long it is kept after success")]
    unique: Annotated[bool, msgspec.Meta(description="It was created with a unique_key")]


class TaskResponse(msgspec.Struct, frozen=True):
    """The response about one task."""

    info: TaskInfo


class EnqueueResponse(msgspec.Struct, frozen=True):
    """The response to `POST /queue/add`."""

    info: TaskInfo
    existing: (
        Annotated[bool, msgspec.Meta(description="With `unique_key`: the task is an earlier one that holds the key")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `POST /queue/add-batch`; ids and errors are in the order of the jobs."""

    enqueued: Annotated[int, msgspec.Meta(description="Number of enqueued tasks")]
    failed: Annotated[int, msgspec.Meta(description="Number of failed jobs")]
    task_ids: Annotated[list[str | None], msgspec.Meta(description="In the order of the jobs; null where one failed")]
    errors: Annotated[list[str | None], msgspec.Meta(description="In the order of the jobs; null where none failed")]
    existing: Annotated[
        list[int],
        msgspec.Meta(description="Indexes of jobs whose unique key an earlier task holds; its id is returned"),
    ]


def parse_enqueue(body: bytes) -> TaskSpec:
    """Return the requested task. The payload is in `data`, or in a flat body all members but the options.

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
    """Return the requested batch; an invalid job is replaced by its error.

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


def task_info(record: TaskRecord) -> TaskInfo:
    """Return a task as the API renders it."""
    message = record.message
    return TaskInfo(
        id=record.id,
        type=message.type,
        queue=record.queue,
        state=record.state,
        payload=payloads.as_json(message.payload),
        result=None if record.result is None else payloads.as_json(record.result),
        max_retry=message.retry,
        retried=record.retried,
        last_err=record.error,
        error=record.error if record.state is TaskState.ARCHIVED else None,
        timeout=durations.format_s(message.timeout),
        deadline=format_s(message.deadline or None),
        next_process_at=format_s(record.next_process_at_s),
        enqueued_at=format_ns(record.enqueued_at_ns),
        started_at=format_ns(record.started_at_ns),
        completed_at=format_ns(record.completed_at_ns),
        worker_id=record.worker_id or None,
        request_id=message.headers.get(REQUEST_ID),
        traceparent=message.headers.get(TRACEPARENT),
        progress=record.progress,
    )


def task_response(record: TaskRecord) -> TaskResponse:
    """Return the response about one task.

    The released SDK decodes a result that is a string once more, which changes `"42"` to 42, unless there is `Result`.
    """
    info = task_info(record)
    if record.result is None or (text := payloads.text_of_string(record.result, info.result)) is None:
        return TaskResponse(info)
    return TaskResponse(msgspec.structs.replace(info, result_text=text))


def task_detail(record: TaskRecord) -> TaskDetail:
    """Return a task with all details as the API renders it."""
    message = record.message
    return TaskDetail(
        **msgspec.structs.asdict(task_info(record)),
        attempts=record.attempts,
        pending_since=format_ns(record.pending_since_ns),
        last_failed_at=format_s(message.last_failed_at or None),
        archived_at=format_s(record.archived_at_s),
        expires_at=format_s(record.expires_at_s),
        lease_ends_at=format_s(record.score_s if record.state is TaskState.ACTIVE else None),
        cancel_asked_at=format_ns(record.cancel_requested_at_ns),
        is_canceled=record.is_canceled,
        child_deaths=record.child_deaths,
        retention_secs=message.retention,
        unique=bool(message.unique_key),
    )


def enqueue_response(enqueued: EnqueuedTask, spec: TaskSpec, awaited: TaskRecord | None = None) -> EnqueueResponse:
    """Return the response about an enqueued task, in its state after a wait if there was one."""
    existing = enqueued.is_existing if spec.unique is not None else msgspec.UNSET
    return EnqueueResponse(task_info(awaited or enqueued.record), existing)


def batch_response(batch: EnqueuedBatch) -> BatchResponse:
    """Return the response about a batch."""
    failed = sum(result.error is not None for result in batch.results)
    existing = [index for index, result in enumerate(batch.results) if result.is_existing]
    return BatchResponse(
        enqueued=len(batch.results) - failed - len(existing),
        failed=failed,
        task_ids=[result.task_id for result in batch.results],
        errors=[result.error.detail if result.error else None for result in batch.results],
        existing=existing,
    )


def enqueue_schema() -> dict[str, Any]:
    """Return the JSON schema of the nested body of `POST /queue/add`."""
    properties = {name: dict(option.schema) for name, option in OPTIONS.items()}
    payload = {"description": "The payload: any JSON, or an object if the queue has a payload schema"}
    return {
        "type": "object",
        "description": "A flat body has the payload's members instead of `data`.",
        "properties": {"queue": properties.pop("queue"), "data": payload, **properties},
        "required": ["queue"],
    }


def batch_schema() -> dict[str, Any]:
    """Return the JSON schema of the body of `POST /queue/add-batch`."""
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
    """Return the payload in a body without its options."""
    if "data" not in members:
        return payloads.to_one_line(payloads.encode_members(members))
    data = payloads.to_one_line(bytes(members.pop("data")))
    for name in members:
        errors.append(f"{name[:64]}: unknown; members of the payload must be in data.")
    return data


def _parse_jobs(raw: msgspec.Raw | None, errors: list[str]) -> list[msgspec.Raw]:
    """Return the jobs of a batch, not decoded."""
    if raw is None:
        errors.append("jobs: This field is required.")
    elif not bytes(raw).startswith(b"["):
        errors.append("jobs: Must be a list.")
    else:
        _check_job_count(raw)
        return _decode_jobs(raw)
    return []


def _check_job_count(raw: msgspec.Raw) -> None:
    """Raise BatchTooLarge for more than MAX_BATCH_TASKS jobs, before all of them are in memory.

    Raise RequestInvalid if a list of that length has anything but objects and lists.
    """
    if len(memoryview(raw)) < 2 * MAX_UNCOUNTED_COMMAS or bytes(raw).count(b",") <= MAX_UNCOUNTED_COMMAS:
        return
    _job_count.value = 0
    try:
        _count_jobs(raw)
    except msgspec.ValidationError as error:
        raise RequestInvalid(errors=["jobs: A list of this length must contain only objects and lists."]) from error


def _parse_job(queue: str, job: msgspec.Raw, shared: dict[str, Any]) -> BatchItem:
    """Return the requested task: the payload is in `data`, or the job itself."""
    text = bytes(job)
    members = _decode_job(text) if text.startswith(b"{") and b'"data"' in text else {}
    if "data" not in members or not members.keys() <= _JOB_MEMBERS:
        return TaskSpec(queue=queue, payload=payloads.to_one_line(text), **shared)
    data = members.pop("data")
    options = OptionParser(members)
    own = options.parse_fields()
    payload = payloads.to_one_line(bytes(data))
    if options.errors:
        return RequestInvalid(errors=options.errors)
    if "delay_ns" in own or "process_at_ns" in own:
        shared = {name: value for name, value in shared.items() if name not in ("delay_ns", "process_at_ns")}
    return TaskSpec(queue=queue, payload=payload, **shared | own)

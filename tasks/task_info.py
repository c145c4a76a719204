"""What clients and webhooks are told of a task."""

from typing import Annotated, Any

import msgspec

from runqy.broker.states import TaskState
from runqy.broker.tasks.record import TaskProgress, TaskRecord
from runqy.core.formats import durations
from runqy.core.formats.json_decoding import FOR_RELEASED_CLIENTS
from runqy.core.formats.timestamps import format_ns, format_s
from runqy.core.telemetry.tracing import REQUEST_ID, TRACEPARENT
from tasks import payloads

Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})] | None


class TaskAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt of a task."""

    attempt: int
    worker_id: str
    ended_at: Timestamp
    error_class: Annotated[str | None, msgspec.Meta(description="As the task's `error_class`")]
    error: Annotated[str | None, msgspec.Meta(description="An excerpt; null also if later attempts took its place")]


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A task. Payload and result keep their bytes."""

    id: str
    type: Annotated[str, msgspec.Meta(description="The Redis queue, as in asynq's tools")]
    queue: Annotated[str, msgspec.Meta(description="The Redis queue")]
    state: TaskState
    payload: (
        Annotated[
            Any,
            msgspec.Meta(description="The request's bytes, with the schema's defaults; absent with `?payload=false`"),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    # Before `result`: Go's decoders ignore case, and keep the last member.
    result_text: (
        Annotated[
            str,
            msgspec.Meta(
                description="In `GET /queue/{task_id}`: the JSON text of a result that is a string",
                extra_json_schema=FOR_RELEASED_CLIENTS,
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.field(default=msgspec.UNSET, name="Result")
    result: Annotated[Any, msgspec.Meta(description="A string where the result is not JSON")]
    max_retry: int
    retried: int
    last_err: Annotated[str, msgspec.Meta(description="The error of the last failed run")]
    error: Annotated[str | None, msgspec.Meta(description="The error, if it is archived")]
    error_class: Annotated[
        str | None,
        msgspec.Meta(
            description="The import path of the exception behind `last_err`, if the SDK sent it; of an error that no "
            "handler raised, a class of `runqy_sdk.errors`"
        ),
    ]
    runs: Annotated[
        list[TaskAttempt],
        msgspec.Meta(description="The attempts of runqy's workers that failed, and the one that runs or succeeded"),
    ]
    timeout: Annotated[str, msgspec.Meta(description="Of one run, as a Go duration such as 10m0s")]
    deadline: Timestamp
    next_process_at: Timestamp
    enqueued_at: Timestamp
    started_at: Annotated[Timestamp, msgspec.Meta(description="Start of the last run")]
    completed_at: Timestamp
    worker_id: str | None
    request_id: Annotated[str | None, msgspec.Meta(description="X-Request-ID of the request that created it")]
    traceparent: Annotated[str | None, msgspec.Meta(description="The trace of that request (W3C Trace Context)")]
    progress: Annotated[TaskProgress | None, msgspec.Meta(description="Of the last run, if its handler reports it")]
    child_deaths: Annotated[int, msgspec.Meta(description="Processes that died while they ran only this task")]
    shared_deaths: Annotated[
        int,
        msgspec.Meta(description="Processes that died while they ran it beside others; from 2 on it runs alone"),
    ]


def task_info(record: TaskRecord) -> TaskInfo:
    message = record.message
    return TaskInfo(
        id=record.id,
        type=message.type,
        queue=record.queue,
        state=record.state,
        payload=payloads.as_json(message.payload) if record.has_payload else msgspec.UNSET,
        result=None if record.result is None else payloads.as_json(record.result),
        max_retry=message.retry,
        retried=record.retried,
        last_err=record.error,
        error=record.error if record.state is TaskState.ARCHIVED else None,
        error_class=record.error_class or None,
        runs=_attempts(record),
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
        child_deaths=record.child_deaths,
        shared_deaths=record.shared_deaths,
    )


def _attempts(record: TaskRecord) -> list[TaskAttempt]:
    attempts = [
        TaskAttempt(
            attempt=each.attempt,
            worker_id=each.worker_id,
            ended_at=format_ns(each.ended_ns),
            error_class=each.error_class or None,
            error=each.error or None,
        )
        for each in record.failures
    ]
    if record.worker_id and record.state in (TaskState.ACTIVE, TaskState.COMPLETED):
        ended_at = format_ns(record.completed_at_ns)
        attempts.append(
            TaskAttempt(
                attempt=record.attempts,
                worker_id=record.worker_id,
                ended_at=ended_at if record.state is TaskState.COMPLETED else None,
                error_class=None,
                error=None,
            )
        )
    return attempts

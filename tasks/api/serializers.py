"""Serializers of tasks, and the response structs of the hot routes, which DRF and the data plane both encode."""

from typing import Annotated, Any, TypeAlias

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction, extend_schema_serializer
from rest_framework import serializers

from runqy.api.query_parameters import ChoiceParameter, FlagParameter, LimitParameter
from runqy.api.renderers import format_ns, format_s
from runqy.api.serializers import BodySerializer, StructSerializer
from runqy.broker.message import REQUEST_ID, TRACEPARENT
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.record import TaskProgress, TaskRecord
from runqy.formats import durations
from tasks import payloads
from tasks.actions import MAX_TASKS_PER_REQUEST, STATES_FOR_ALL, TaskAction
from tasks.api import enqueue_bodies
from tasks.batches import BatchSpec, EnqueuedBatch
from tasks.operations import EnqueuedTask

_Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})] | None


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A task. Payload and result keep their bytes."""

    id: str
    type: Annotated[str, msgspec.Meta(description="The Redis queue, as in asynq's tools")]
    queue: Annotated[str, msgspec.Meta(description="The Redis queue")]
    state: TaskState
    payload: Annotated[Any, msgspec.Meta(description="The request's bytes, with the schema's defaults")]
    # Before `result`: Go's decoders ignore case, and keep the last member.
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

    attempts: Annotated[int, msgspec.Meta(description="Number of attempts that started")]
    pending_since: _Timestamp
    last_failed_at: _Timestamp
    archived_at: _Timestamp
    expires_at: Annotated[_Timestamp, msgspec.Meta(description="When it is deleted")]
    lease_ends_at: Annotated[_Timestamp, msgspec.Meta(description="When its worker's lease expires")]
    cancel_asked_at: _Timestamp
    is_canceled: bool
    child_deaths: Annotated[int, msgspec.Meta(description="Processes that died while they ran only this task")]
    shared_deaths: Annotated[
        int,
        msgspec.Meta(description="Processes that died while they ran it beside others; from 2 on it runs alone"),
    ]
    retention_secs: Annotated[int, msgspec.Meta(description="How long it is kept after success")]
    unique: Annotated[bool, msgspec.Meta(description="It was created with a unique_key")]


ORDERS = {"oldest": False, "newest": True}
"""Whether the newest tasks come first."""


class TaskListQuerySerializer(BodySerializer):
    """Which tasks of a queue to list."""

    state = ChoiceParameter(
        [state.value for state in TaskState], "`pending` by default", default=TaskState.PENDING, allow_blank=True
    )
    order = ChoiceParameter(
        list(ORDERS), "`oldest` by default: the next to run or to expire first", default="oldest", allow_blank=True
    )


class BulkQuerySerializer(BodySerializer):
    """Which tasks of a queue an action is for."""

    limit = LimitParameter(
        f"Limits the number of tasks, oldest first; default and maximum {MAX_TASKS_PER_REQUEST}",
        default=MAX_TASKS_PER_REQUEST,
        most=MAX_TASKS_PER_REQUEST,
    )
    dry_run = FlagParameter("Only count the tasks")


def _bulk_query(action: TaskAction) -> type[BulkQuerySerializer]:
    """Return the query serializer of an action. Actions differ in the states that they can be applied to."""
    state = ChoiceParameter([state.value for state in STATES_FOR_ALL[action]])
    return type(f"{action.capitalize()}QuerySerializer", (BulkQuerySerializer,), {"state": state})


BULK_QUERIES = {action: _bulk_query(action) for action in STATES_FOR_ALL}


class TaskResponse(msgspec.Struct, frozen=True):
    """The response about one task."""

    info: TaskInfo


Warnings: TypeAlias = (
    Annotated[list[str], msgspec.Meta(description="Only present if no worker serves the queue")] | msgspec.UnsetType
)


class EnqueueResponse(msgspec.Struct, frozen=True):
    """The response to `POST /queue/add`."""

    info: TaskInfo
    existing: (
        Annotated[bool, msgspec.Meta(description="With `unique_key`: the task is an earlier one that holds the key")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    warnings: Warnings = msgspec.UNSET


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to `POST /queue/add-batch`; ids and errors are in the order of the jobs."""

    enqueued: Annotated[int, msgspec.Meta(description="Number of enqueued tasks")]
    failed: Annotated[int, msgspec.Meta(description="Number of failed jobs")]
    task_ids: Annotated[list[str | None], msgspec.Meta(description="In the order of the jobs; null where one failed")]
    errors: Annotated[list[str | None], msgspec.Meta(description="In the order of the jobs; null where none failed")]
    codes: Annotated[list[str | None], msgspec.Meta(description="The codes of the errors, for programs")]
    existing: Annotated[
        list[int],
        msgspec.Meta(description="Indexes of jobs whose unique key an earlier task holds; its id is returned"),
    ]
    warnings: Warnings = msgspec.UNSET


class TaskLogs(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt of a task printed."""

    id: str
    queue: Annotated[str, msgspec.Meta(description="The Redis queue")]
    attempt: Annotated[int, msgspec.Meta(description="0: no attempt has printed anything")]
    attempts: Annotated[list[int], msgspec.Meta(description="The last attempts that printed anything")]
    text: Annotated[str, msgspec.Meta(description="The last 64 KiB")]
    truncated: Annotated[bool, msgspec.Meta(description="The attempt printed more before the text")]
    shared: Annotated[
        bool, msgspec.Meta(description="Other tasks ran in the same child at the time: some of the text may be theirs")
    ]


def task_info(record: TaskRecord) -> TaskInfo:
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
    """Return the response about one task."""
    info = task_info(record)
    # The released SDK decodes a string result once more, which changes `"42"` to 42, unless there is a `Result`.
    if record.result is None or (text := payloads.text_of_string(record.result, info.result)) is None:
        return TaskResponse(info)
    return TaskResponse(msgspec.structs.replace(info, result_text=text))


def task_detail(record: TaskRecord) -> TaskDetail:
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
        shared_deaths=record.shared_deaths,
        retention_secs=message.retention,
        unique=bool(message.unique_key),
    )


def enqueue_response(enqueued: EnqueuedTask, requested: NewTask, awaited: TaskRecord | None = None) -> EnqueueResponse:
    """Return the response about an enqueued task, in its state after a wait if there was one."""
    existing = enqueued.is_existing if requested.unique_key else msgspec.UNSET
    record = awaited or enqueued.record
    has_warning = enqueued.is_unserved and not enqueued.is_replayed and not record.state.is_final
    return EnqueueResponse(task_info(record), existing, _warnings(record.queue if has_warning else ""))


def batch_response(batch: EnqueuedBatch) -> BatchResponse:
    failed = sum(result.error is not None for result in batch.results)
    existing = [index for index, result in enumerate(batch.results) if result.is_existing]
    return BatchResponse(
        enqueued=len(batch.results) - failed - len(existing),
        failed=failed,
        task_ids=[result.task_id for result in batch.results],
        errors=[result.error.detail if result.error else None for result in batch.results],
        codes=[result.error.code if result.error else None for result in batch.results],
        existing=existing,
        warnings=_warnings("" if batch.is_replayed else batch.unserved),
    )


def _warnings(unserved: str) -> list[str] | msgspec.UnsetType:
    return [f"No worker serves the queue {unserved}: its tasks wait until one does."] if unserved else msgspec.UNSET


class EnqueueSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /queue/add`, as bytes. Its fields are `enqueue_bodies.OPTIONS`, for both planes."""

    def to_internal_value(self, data: bytes) -> NewTask:
        return enqueue_bodies.parse_enqueue(data)


class BatchSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /queue/add-batch`, as bytes."""

    def to_internal_value(self, data: bytes) -> BatchSpec:
        return enqueue_bodies.parse_batch(data)


class EnqueueSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /queue/add`."""

    target_class = EnqueueSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return enqueue_bodies.enqueue_schema()


class BatchSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /queue/add-batch`."""

    target_class = BatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return enqueue_bodies.batch_schema()


class EnqueueResponseSerializer(StructSerializer):
    """An enqueued task; renders an EnqueueResponse."""

    struct = EnqueueResponse

    def to_representation(self, instance: EnqueueResponse) -> EnqueueResponse:
        return instance


class BatchResponseSerializer(StructSerializer):
    """The result of a batch."""

    struct = BatchResponse

    def to_representation(self, instance: EnqueuedBatch) -> BatchResponse:
        return batch_response(instance)


class TaskSerializer(StructSerializer):
    """A task."""

    struct = TaskInfo

    def to_representation(self, instance: TaskRecord) -> TaskInfo:
        return task_info(instance)


class TaskResponseSerializer(StructSerializer):
    """A task by its id."""

    struct = TaskResponse

    def to_representation(self, instance: TaskRecord) -> TaskResponse:
        return task_response(instance)


class TaskDetailSerializer(StructSerializer):
    """A task with all details."""

    struct = TaskDetail

    def to_representation(self, instance: TaskRecord) -> TaskDetail:
        return task_detail(instance)


class TaskLogsSerializer(StructSerializer):
    """What an attempt of a task printed."""

    struct = TaskLogs

    def to_representation(self, instance: TaskLogs) -> TaskLogs:
        return instance


@extend_schema_serializer(many=False)
class TaskPageSerializer(serializers.Serializer[Any]):
    """Some of the tasks in a state."""

    tasks = TaskSerializer(many=True)
    count = serializers.IntegerField(help_text="Tasks on this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class TaskActionSerializer(serializers.Serializer[Any]):
    """The result of an action on a task."""

    message = serializers.CharField()
    task_id = serializers.CharField()


class BulkActionSerializer(serializers.Serializer[Any]):
    """The result of an action on the tasks of a state."""

    queue = serializers.CharField(help_text="The Redis queue")
    action = serializers.ChoiceField(choices=["run", "archive", "delete", "release"])
    state = serializers.CharField()
    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="Tasks in the state")
    affected = serializers.IntegerField(help_text="Tasks that the action was applied to; none in a dry run")

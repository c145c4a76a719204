"""Serializers of tasks, and the response structs of the hot routes, which DRF and the data plane both encode."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction, extend_schema_serializer
from rest_framework import serializers

from runqy.api.query_parameters import ChoiceParameter, FlagParameter, LimitParameter
from runqy.api.schema import name_members
from runqy.api.serializers import BodySerializer, StructSerializer
from runqy.broker.states import TaskState
from runqy.broker.tasks.record import TaskRecord
from runqy.core.formats.timestamps import format_ns, format_s
from tasks import payloads
from tasks.actions import MAX_TASKS_PER_REQUEST, STATES_FOR_ALL, TaskAction
from tasks.api import enqueue_bodies
from tasks.enqueue_many import EnqueuedTasks
from tasks.operations import EnqueuedTask
from tasks.task_info import TaskInfo, Timestamp, task_info


class TaskDetail(TaskInfo, frozen=True, kw_only=True):
    """A task with all details."""

    attempts: Annotated[int, msgspec.Meta(description="Number of attempts that started")]
    pending_since: Timestamp
    last_failed_at: Timestamp
    archived_at: Timestamp
    expires_at: Annotated[Timestamp, msgspec.Meta(description="When it is deleted")]
    lease_ends_at: Annotated[Timestamp, msgspec.Meta(description="When its worker's lease expires")]
    cancel_asked_at: Timestamp
    is_canceled: bool
    retention_secs: Annotated[int, msgspec.Meta(description="How long it is kept after success")]
    unique: Annotated[bool, msgspec.Meta(description="It was created with a unique_key")]


ORDERS = {"oldest": False, "newest": True}
"""Whether the newest tasks come first."""


class TaskQuerySerializer(BodySerializer):
    """What to return of a task."""

    payload = FlagParameter("`false`: leave the payload out, which Redis then does not send", default=True)


def parse_wants_payload(query: str | None) -> bool:
    """Return whether a response has the payload, by the value of `?payload=`. Raise RequestInvalid."""
    return query is None or bool(TaskQuerySerializer.validated({"payload": query})["payload"])


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


class AddBatchResponse(msgspec.Struct, frozen=True, kw_only=True):
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
        retention_secs=message.retention,
        unique=bool(message.unique_key),
    )


def enqueue_response(
    enqueued: EnqueuedTask, awaited: TaskRecord | None = None, *, has_unique_key: bool
) -> EnqueueResponse:
    """Return the response about an enqueued task, in its state after a wait if there was one."""
    existing = enqueued.is_existing if has_unique_key else msgspec.UNSET
    record = awaited or enqueued.record
    is_new = not enqueued.is_replayed and not record.state.is_final
    return EnqueueResponse(task_info(record), existing, _warnings(enqueued.warnings if is_new else ()))


def add_batch_response(enqueued: EnqueuedTasks) -> AddBatchResponse:
    failed = sum(result.error is not None for result in enqueued.results)
    existing = [index for index, result in enumerate(enqueued.results) if result.is_existing]
    return AddBatchResponse(
        enqueued=len(enqueued.results) - failed - len(existing),
        failed=failed,
        task_ids=[result.task_id for result in enqueued.results],
        errors=[result.error.detail if result.error else None for result in enqueued.results],
        codes=[result.error.code if result.error else None for result in enqueued.results],
        existing=existing,
        warnings=_warnings(() if enqueued.is_replayed else enqueued.warnings),
    )


def _warnings(warnings: Sequence[str]) -> list[str] | msgspec.UnsetType:
    return list(warnings) or msgspec.UNSET


class EnqueueSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /queue/add` in the schema. `enqueue_bodies.parse_enqueue` reads it, for both planes."""


class AddBatchSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /queue/add-batch` in the schema."""


class EnqueueSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /queue/add`."""

    target_class = EnqueueSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return name_members(auto_schema, enqueue_bodies.enqueue_schema(), webhook="TaskWebhook")


class AddBatchSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /queue/add-batch`."""

    target_class = AddBatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return name_members(auto_schema, enqueue_bodies.add_batch_schema(), webhook="TaskWebhook")


class EnqueueResponseSerializer(StructSerializer):
    """An enqueued task, in the schema."""

    struct = EnqueueResponse


class AddBatchResponseSerializer(StructSerializer):
    """The result of `POST /queue/add-batch`."""

    struct = AddBatchResponse


class TaskSerializer(StructSerializer):
    """A task."""

    struct = TaskInfo

    def to_representation(self, instance: TaskRecord) -> TaskInfo:
        return task_info(instance)


class TaskResponseSerializer(StructSerializer):
    """A task by its id."""

    struct = TaskResponse


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

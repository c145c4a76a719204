"""Serializers of tasks; the hot routes' shapes are defined in `bodies`, for the data plane too."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction, extend_schema_serializer
from rest_framework import serializers

from runqy.api.struct_serializers import StructSerializer
from runqy.broker.records import TaskRecord
from tasks.api import bodies
from tasks.batches import BatchSpec, EnqueuedBatch
from tasks.task_specs import TaskSpec


class EnqueueSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /queue/add`, as bytes."""

    def to_internal_value(self, data: bytes) -> TaskSpec:
        return bodies.parse_enqueue(data)


class BatchSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /queue/add-batch`, as bytes."""

    def to_internal_value(self, data: bytes) -> BatchSpec:
        return bodies.parse_batch(data)


class EnqueueSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /queue/add`."""

    target_class = EnqueueSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return bodies.enqueue_schema()


class BatchSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /queue/add-batch`."""

    target_class = BatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return bodies.batch_schema()


class EnqueueResponseSerializer(StructSerializer):
    """A task that was queued; renders an EnqueueResponse."""

    struct = bodies.EnqueueResponse

    def to_representation(self, instance: bodies.EnqueueResponse) -> bodies.EnqueueResponse:
        return instance


class BatchResponseSerializer(StructSerializer):
    """What became of a batch."""

    struct = bodies.BatchResponse

    def to_representation(self, instance: EnqueuedBatch) -> bodies.BatchResponse:
        return bodies.batch_response(instance)


class TaskSerializer(StructSerializer):
    """A task."""

    struct = bodies.TaskInfo

    def to_representation(self, instance: TaskRecord) -> bodies.TaskInfo:
        return bodies.task_info(instance)


class TaskResponseSerializer(StructSerializer):
    """A task by its id."""

    struct = bodies.TaskResponse

    def to_representation(self, instance: TaskRecord) -> bodies.TaskResponse:
        return bodies.TaskResponse(bodies.task_info(instance))


class TaskDetailSerializer(StructSerializer):
    """A task with all that is known about it."""

    struct = bodies.TaskDetail

    def to_representation(self, instance: TaskRecord) -> bodies.TaskDetail:
        return bodies.task_detail(instance)


@extend_schema_serializer(many=False)
class TaskPageSerializer(serializers.Serializer[Any]):
    """Some of the tasks in a state."""

    tasks = TaskSerializer(many=True)
    count = serializers.IntegerField(help_text="Of this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class TaskActionSerializer(serializers.Serializer[Any]):
    """What was done to a task."""

    message = serializers.CharField()
    task_id = serializers.CharField()


class BulkActionSerializer(serializers.Serializer[Any]):
    """What was done to the tasks of a state."""

    queue = serializers.CharField(help_text="The Redis queue")
    action = serializers.ChoiceField(choices=["run", "archive", "delete"])
    state = serializers.CharField()
    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="Tasks in the state")
    affected = serializers.IntegerField(help_text="Tasks that the action was applied to; none in a dry run")

"""Bodies of the batch routes."""

from typing import Any, ClassVar

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction, OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from batches.api import bodies
from batches.models import Batch, CallbackState, MemberState
from batches.operations import Addition
from runqy.api.query_parameters import ChoiceParameter
from runqy.api.schema import name_members, request_example, response_example
from runqy.api.serializers import BodySerializer, EmptyAsNullField

_BATCH: dict[str, Any] = {
    "id": "4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11",
    "name": "nightly import",
    "closed": True,
    "canceled": False,
    "total": 1000,
    "counts": {**dict.fromkeys(MemberState.values, 0), "completed": 990, "enqueued": 9, "archived": 1},
    "queues": ["import", "reports"],
    "on": "ended",
    "callback": {"state": "planned", "queue": "reports", "task_id": None, "reason": None},
    "created_at": "2026-11-26T08:00:00Z",
    "created_by": "importer",
    "ended_at": None,
}
_ADD: dict[str, Any] = {"queue": "inference_high", "jobs": [{"prompt": "a sunset"}, {"prompt": "a sunrise"}]}
_CREATE: dict[str, Any] = {
    "name": "nightly import",
    **_ADD,
    "callback": {"queue": "inference_high", "payload": {"prompt": "a report"}},
    "on": "ended",
    "close": True,
}
_MEMBER = {"task_id": "0d5f7d7e-4d07-4a4e-9d8a-0f3f8f9a2b11", "queue": "import", "state": "completed", "reason": None}
_TASK_IDS = {
    "added": 1,
    "failed": 1,
    "task_ids": [_MEMBER["task_id"], None],
    "errors": [None, "data: Not an object."],
    "warnings": [],
}

BATCH_EVENTS = OpenApiExample(
    "A batch of two that ends",
    'event: progress\ndata: {"id":"4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11","closed":true,"canceled":false,"total":2,'
    '"counts":{"enqueued":1,"completed":1}}\n\n'
    'id: end\nevent: end\ndata: {"id":"4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11","total":2,"counts":{"completed":2}}\n\n',
    response_only=True,
    status_codes=["200"],
    media_type="text/event-stream",
)


class CallbackSerializer(serializers.Serializer[Batch]):
    """The callback of a batch."""

    state = serializers.ChoiceField(choices=CallbackState.choices, source="callback_state")
    queue = EmptyAsNullField(allow_null=True, source="callback_queue", help_text="The Redis queue")
    task_id = EmptyAsNullField(allow_null=True, source="callback_task_id", help_text="Once its condition is met")
    reason = EmptyAsNullField(allow_null=True, source="callback_reason", help_text="Why it waits or was refused")


@response_example(_BATCH)
class BatchSerializer(serializers.ModelSerializer[Batch]):
    """A batch."""

    closed = serializers.BooleanField(source="is_closed", help_text="Nothing more can be added")
    canceled = serializers.BooleanField(source="is_canceled")
    total = serializers.IntegerField(help_text="Number of members")
    counts = serializers.SerializerMethodField(help_text="Number of members by state")
    queues = serializers.ListField(child=serializers.CharField(), help_text="Of its members and its callback")
    on = serializers.CharField(help_text="When the callback is enqueued: `ended`, `succeeded` or `failed`")
    callback = CallbackSerializer(source="*")
    created_by = serializers.SerializerMethodField(help_text="The name of the key or user that created it")
    ended_at = serializers.DateTimeField(allow_null=True, help_text="When all had ended and it was closed; null before")

    class Meta:
        model = Batch
        fields: ClassVar = [*_BATCH]

    def get_counts(self, batch: Batch) -> dict[str, int]:
        return {state: batch.counts.get(state, 0) for state in MemberState.values}

    def get_created_by(self, batch: Batch) -> str:
        return str(batch.created_by["name"])


@response_example(_MEMBER)
class MemberSerializer(serializers.Serializer[Any]):
    """A member of a batch."""

    task_id = serializers.CharField()
    queue = serializers.CharField(source="redis_queue", help_text="The Redis queue")
    state = serializers.ChoiceField(choices=MemberState.choices)
    reason = EmptyAsNullField(allow_null=True, help_text="Why it waits, was refused, or failed")


@extend_schema_serializer(many=False)
@response_example({**_BATCH, "members": [_MEMBER], "next": None})
class BatchPageSerializer(BatchSerializer):
    """A batch, with a page of its members in the order in which they were added."""

    members = MemberSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")

    class Meta:
        model = Batch
        fields: ClassVar = [*_BATCH, "members", "next"]


@extend_schema_serializer(many=False)
@response_example({"batches": [_BATCH], "next": None})
class BatchListSerializer(serializers.Serializer[Any]):
    """A page of batches, the newest first."""

    batches = BatchSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


@response_example({**_BATCH, **_TASK_IDS})
class AdditionSerializer(BatchSerializer):
    """A batch, and what became of the jobs of the request."""

    added = serializers.SerializerMethodField(help_text="Number of new members")
    failed = serializers.SerializerMethodField(help_text="Number of invalid jobs, which are no members")
    task_ids = serializers.SerializerMethodField(help_text="In the order of the jobs; null where one is invalid")
    errors = serializers.SerializerMethodField(help_text="In the order of the jobs; null where one is valid")  # type: ignore[assignment]

    warnings = serializers.SerializerMethodField(help_text="Why ends of members may not be told")

    class Meta:
        model = Batch
        fields: ClassVar = [*_BATCH, *_TASK_IDS]

    @property
    def _addition(self) -> Addition:
        addition: Addition = self.context["addition"]
        return addition

    def get_added(self, batch: Batch) -> int:
        return sum(task_id is not None for task_id in self._addition.task_ids)

    def get_failed(self, batch: Batch) -> int:
        return sum(error is not None for error in self._addition.errors)

    def get_task_ids(self, batch: Batch) -> list[str | None]:
        return list(self._addition.task_ids)

    def get_errors(self, batch: Batch) -> list[str | None]:
        return list(self._addition.errors)

    def get_warnings(self, batch: Batch) -> list[str]:
        return list(self.context["warnings"])


@request_example(_CREATE)
class CreateBatchSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /batches`, as bytes."""


@request_example(_ADD)
class AddToBatchSerializer(serializers.BaseSerializer[Any]):
    """The body of `POST /batches/{id}/add`, as bytes."""


class CreateBatchSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /batches`."""

    target_class = CreateBatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        schema = bodies.create_schema()
        callback = schema["properties"]["callback"]
        options = name_members(auto_schema, callback["properties"]["options"], webhook="TaskWebhook")
        callback["properties"]["options"] = options
        schema["properties"]["callback"] = name_members(auto_schema, callback, options="CallbackOptions")
        return name_members(auto_schema, schema, webhook="TaskWebhook", callback="CallbackTask")


class AddToBatchSerializerExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The schema of `POST /batches/{id}/add`."""

    target_class = AddToBatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return name_members(auto_schema, bodies.add_schema(), webhook="TaskWebhook")


class MemberQuerySerializer(BodySerializer):
    """Which members to list."""

    state = ChoiceParameter([*MemberState.values, "all"], "Members in this state", default="all")

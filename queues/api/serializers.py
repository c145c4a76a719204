"""Serializers of queues and their configuration, with examples for the schema."""

from typing import Any, ClassVar

from rest_framework import serializers

from queues.definition_serializers import (
    DeploymentSerializer,
    PayloadFieldSerializer,
    QueueDefinitionSerializer,
    SubQueueSerializer,
    parse_change,
)
from queues.definitions import QueueMode, QueueOrder
from queues.models import QueueSource
from queues.operations import QueueConfigInput
from queues.status import RedisQueueStatus
from queues.validators import validate_queue_name
from runqy.api.query_parameters import FlagParameter
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    BodySerializer,
    EmptyAsNullField,
    NamesField,
    PublishedField,
    StrictBooleanField,
    StringField,
    UnixSecondsField,
    WorkerCountsSerializer,
)
from runqy.errors import QueueInvalid

_MODES = [mode.value for mode in QueueMode]
_ORDERS = [order.value for order in QueueOrder]
_READ_ONLY = frozenset({"queue", "sub_queue", "source", "created_at", "updated_at"})
"""Ignored in requests, so that a configuration can be read, changed and sent back."""

_DEPLOYMENT_EXAMPLE = {
    "git_url": "https://github.com/example/repo.git",
    "branch": "main",
    "startup_cmd": "python main.py",
    "mode": "long_running",
    "startup_timeout_secs": 300,
    "requirements_file": "requirements.txt",
    "vaults": ["api-keys"],
}
_QUEUE_EXAMPLE = {
    "name": "inference",
    "priority": 6,
    "queue": "inference",
    "sub_queue": None,
    "is_enabled": True,
    "mode": "long_running",
    "order": "weighted",
    "sub_queues": [],
    "deployment": {
        **_DEPLOYMENT_EXAMPLE,
        "code_path": "",
        "child_concurrency": None,
        "env_vars": {},
        "redis_storage": True,
        "hide_payloads": False,
        "git_token": "",
        "release": "manual",
        "rollout": {"first": 1, "bake": 60, "max_unavailable": "25%", "replace_first": False, "keep_previous": False},
        "limits": {"max_retry": 3},
    },
    "webhook_hosts": [],
    "input": [],
    "output": [],
    "source": "api",
    "created_at": "2024-01-15T10:30:00Z",
    "updated_at": "2024-01-15T10:30:00Z",
}
_DELETED_EXAMPLE = {
    "message": "Queue 'inference' deleted successfully",
    "queue": "inference",
    "redis_queues": ["inference"],
    "removed": {"tasks": {"completed": 12, "archived": 1}, "keys": 6},
    "published": True,
}
_STATUS_EXAMPLE: dict[str, Any] = {
    "queue": "inference_high",
    "pending": 12,
    "active": 2,
    "scheduled": 1,
    "retry": 0,
    "archived": 3,
    "completed": 240,
    "paused": True,
    "memory_usage": 204800,
    "aggregating": 0,
    "size": 258,
    "oldest_pending_secs": 4.25,
    "processed_today": 251,
    "failed_today": 3,
    "processed": 10251,
    "failed": 41,
    "priority": 10,
    "parent": "inference",
    "is_defined": True,
    "is_enabled": True,
    "worker_processes": {"ready": 1, "not_ready": 0, "disconnected": 0},
    "health": ["paused"],
}
_DETAIL_EXAMPLE = _STATUS_EXAMPLE | {
    "paused_by": "ops",
    "paused_since": "2024-01-15T12:45:00Z",
    "history": [{"date": "2024-01-15", "processed": 251, "failed": 3}],
    "workers": ["worker-abc123"],
}


AT_ONCE = (
    "Workers replace processes with another environment at once, instead of taking turns; also those that wait for "
    "their turn while the definition is equal"
)


class ReplaceConfigQuerySerializer(BodySerializer):
    """How to replace a configuration."""

    replace_at_once = FlagParameter(AT_ONCE)


class CreateConfigQuerySerializer(ReplaceConfigQuerySerializer):
    """How to save a configuration."""

    force = FlagParameter("Update the queue if it exists")


class DeleteConfigQuerySerializer(BodySerializer):
    """How to delete a queue."""

    force = FlagParameter("Also delete waiting and running tasks")


class ValidatedMembersSerializer(BodySerializer):
    """The members of a request that queue files do not have."""

    error_class = QueueInvalid

    name = StringField(
        allow_blank=True,
        validators=[validate_queue_name],
        help_text="`inference.high` without `sub_queues` names a sub-queue",
    )
    is_enabled = StrictBooleanField(required=False)

    def validate_name(self, name: str) -> str:
        if not name:
            raise serializers.ValidationError("This field may not be blank.", "required")
        return name


@request_example({"name": "inference", "priority": 6, "deployment": _DEPLOYMENT_EXAMPLE})
class QueueConfigInputSerializer(QueueDefinitionSerializer):
    """A queue as in queue files.

    A name such as `inference.high`, without `sub_queues`, adds or changes a sub-queue.
    """

    name = serializers.CharField(allow_blank=True, help_text="`inference.high` without `sub_queues` names a sub-queue")
    is_enabled = serializers.BooleanField(required=False)

    class Meta(QueueDefinitionSerializer.Meta):
        fields: ClassVar = ["name", "is_enabled", *QueueDefinitionSerializer.Meta.fields]

    @classmethod
    def parse(cls, body: Any, *, replaces: str = "") -> QueueConfigInput:
        """Return the queue in a body, or one that replaces a queue, whatever its name in the body.

        Raise RequestInvalid, QueueInvalid.
        """
        validated = ValidatedMembersSerializer.validated(body, partial=bool(replaces))
        others = {*_READ_ONLY, *ValidatedMembersSerializer().fields}
        definition = {name: value for name, value in body.items() if name not in others}
        return QueueConfigInput(
            name=replaces or validated["name"],
            build=lambda name, before: parse_change(name, None if replaces else before, definition=definition),
            is_whole=bool(replaces) or "sub_queues" in definition,
            is_enabled=validated.get("is_enabled"),
        )


@response_example(_QUEUE_EXAMPLE)
class QueueConfigSerializer(serializers.Serializer[Any]):
    """The configuration of a queue, or of one sub-queue."""

    priority = serializers.IntegerField()
    mode = serializers.ChoiceField(choices=_MODES, source="spec.mode")
    order = serializers.ChoiceField(choices=_ORDERS, source="spec.order")
    sub_queues = SubQueueSerializer(many=True, source="spec.sub_queues")
    deployment = DeploymentSerializer(source="spec")
    webhook_hosts = serializers.ListField(child=serializers.CharField(), source="spec.webhook_hosts")
    input = PayloadFieldSerializer(many=True, source="spec.input")
    output = PayloadFieldSerializer(many=True, source="spec.output")
    name = serializers.CharField(source="redis_queue", help_text="The Redis queue")
    queue = serializers.CharField(source="spec.name", help_text="The queue that it belongs to")
    sub_queue = EmptyAsNullField(allow_null=True)
    is_enabled = serializers.BooleanField(source="spec.is_enabled")
    source = serializers.ChoiceField(  # type: ignore[assignment]
        choices=[source.value for source in QueueSource], help_text="Where it was changed last"
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


@response_example({"queues": [_QUEUE_EXAMPLE], "count": 1})
class QueueConfigListSerializer(serializers.Serializer[Any]):
    """All queues, each sub-queue as an item of its own."""

    queues = QueueConfigSerializer(many=True)
    count = serializers.IntegerField()


@response_example({"queue": _QUEUE_EXAMPLE, "message": "Queue updated successfully", "published": True})
class QueueConfigSavedSerializer(serializers.Serializer[Any]):
    """A queue that was created or updated."""

    queue = QueueConfigSerializer()
    message = serializers.CharField()
    published = PublishedField()


class RemovedDataSerializer(serializers.Serializer[Any]):
    """What was deleted from Redis."""

    tasks = serializers.DictField(child=serializers.IntegerField(), help_text="By state")
    keys = serializers.IntegerField(help_text="Counters, locks and other keys in Redis")


@response_example(_DELETED_EXAMPLE)
class QueueConfigDeletedSerializer(serializers.Serializer[Any]):
    """A queue that was deleted."""

    message = serializers.CharField()
    queue = serializers.CharField(source="removed.name")
    redis_queues = NamesField(source="removed.redis_queues")
    removed = RemovedDataSerializer()
    published = PublishedField()


@response_example({"queue": "inference", "redis_queues": ["inference"], "tasks": {"pending": 576053, "active": 0}})
class QueueDeletionSerializer(serializers.Serializer[Any]):
    """A queue that maintenance is deleting."""

    queue = serializers.CharField(source="name")
    redis_queues = NamesField()
    tasks = serializers.DictField(child=serializers.IntegerField(), help_text="What is left, by state")


class QueueStatusSerializer(serializers.Serializer[Any]):
    """A Redis queue and the counts of its tasks."""

    queue = serializers.CharField(source="counts.queue", help_text="The Redis queue")
    pending = serializers.IntegerField(source="counts.pending")
    active = serializers.IntegerField(source="counts.active")
    scheduled = serializers.IntegerField(source="counts.scheduled")
    retry = serializers.IntegerField(source="counts.retry")
    archived = serializers.IntegerField(source="counts.archived")
    completed = serializers.IntegerField(source="counts.completed")
    paused = serializers.BooleanField(source="counts.is_paused")
    memory_usage = serializers.IntegerField(source="memory_bytes", help_text="Bytes, estimated from a sample")
    aggregating = serializers.IntegerField(source="counts.aggregating", help_text="In groups of asynq's own clients")
    size = serializers.IntegerField(source="counts.size", help_text="All tasks")
    oldest_pending_secs = serializers.SerializerMethodField(help_text="How long the oldest pending task has waited")
    processed_today = serializers.IntegerField(
        source="counts.processed_today", help_text="Attempts in this UTC day, including failed ones"
    )
    failed_today = serializers.IntegerField(source="counts.failed_today")
    processed = serializers.IntegerField(source="counts.processed")
    failed = serializers.IntegerField(source="counts.failed")
    priority = serializers.IntegerField(source="redis_queue.priority", allow_null=True)
    parent = serializers.CharField(  # type: ignore[assignment]
        source="redis_queue.parent", allow_null=True, help_text="The queue that this sub-queue belongs to"
    )
    is_defined = serializers.BooleanField(source="redis_queue.is_defined", help_text="False: it exists only in Redis")
    is_enabled = serializers.BooleanField(source="redis_queue.is_enabled", help_text="Accepts tasks")
    worker_processes = WorkerCountsSerializer(source="worker_counts", help_text="The processes that serve it")
    health = NamesField(
        help_text="What differs from a working queue, the most urgent first, as the admin shows it: `no worker`, "
        "`failing 23 %`, `falling behind`, `paused`, `disabled`, labels of other alerts; `ok`; `unknown` while "
        "nothing looks for problems"
    )

    def get_oldest_pending_secs(self, status: RedisQueueStatus) -> float:
        return round(status.counts.latency_s, 3)


class DailyAttemptsSerializer(serializers.Serializer[Any]):
    """The attempts of one UTC day."""

    date = serializers.DateField()
    processed = serializers.IntegerField(help_text="Failed ones included")
    failed = serializers.IntegerField()


@response_example(_DETAIL_EXAMPLE)
class QueueDetailSerializer(QueueStatusSerializer):
    """A Redis queue with its pause, history and workers."""

    paused_by = EmptyAsNullField(source="pause.by", allow_null=True, help_text="Null when asynq's tools paused it")
    paused_since = UnixSecondsField(source="pause.since_s", allow_null=True)
    history = DailyAttemptsSerializer(many=True, help_text="Ten days, today first")
    workers = NamesField(help_text="Ids of the workers that serve it")


@response_example({"queues": [_STATUS_EXAMPLE], "count": 1})
class QueueStatusListSerializer(serializers.Serializer[Any]):
    """All Redis queues."""

    queues = QueueStatusSerializer(many=True)
    count = serializers.IntegerField()


@response_example({"message": "queue paused", "queue": "inference_high", "paused": True})
class QueuePausedSerializer(serializers.Serializer[Any]):
    """A queue that was paused or unpaused."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The Redis queue")
    paused = serializers.BooleanField()


@response_example({"message": "queue disabled", "queue": "inference", "is_enabled": False, "published": True})
class QueueEnabledSerializer(serializers.Serializer[Any]):
    """A queue that was enabled or disabled."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The whole queue, even if a sub-queue was named")
    is_enabled = serializers.BooleanField()
    published = PublishedField()

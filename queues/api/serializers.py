"""Bodies of the routes of queues and their configuration."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from queues.config import FileError
from queues.configuring import QueueConfigInput
from queues.definitions import PayloadField, QueueMode, QueueOrder, QueueSpec
from queues.loading import LoadReport
from queues.statistics import QueueStatus
from queues.written import write_deployment, write_field
from runqy.api.serializers import (
    BodySerializer,
    EmptyAsNullField,
    PublishedField,
    StrictBooleanField,
    StringField,
    UnixSecondsField,
)
from runqy.errors import QueueInvalid

_MODES = [mode.value for mode in QueueMode]
_ORDERS = [order.value for order in QueueOrder]
_READ_ONLY = frozenset({"queue", "sub_queue", "source", "created_at", "updated_at"})
"""Ignored in requests, so that a configuration can be read, changed and sent back."""


class SubQueueSerializer(serializers.Serializer[Any]):
    """A sub-queue."""

    name = serializers.CharField()
    priority = serializers.IntegerField(min_value=1, max_value=1000)


@extend_schema_field({"type": ["integer", "string", "null"], "examples": [300, "5m"]})
class DurationField(serializers.Field[Any, Any, Any, Any]):
    """Seconds, or in requests a duration such as `15m`; null: the server's default."""


@extend_schema_field({"type": ["string", "array"], "items": {"type": "string"}, "examples": [["string", "int"]]})
class PayloadTypesField(serializers.Field[Any, Any, Any, Any]):
    """The types that a payload's field may have; in requests also a single one."""


class QueueLimitsSerializer(serializers.Serializer[Any]):
    """The limits of a queue's tasks, in seconds in responses."""

    max_retry = serializers.IntegerField(required=False, allow_null=True)
    ttl_completed = DurationField(required=False)
    ttl_archived = DurationField(required=False)
    pending_timeout = DurationField(required=False)
    active_timeout = DurationField(required=False)
    retry_delay = DurationField(required=False)
    retry_max_delay = DurationField(required=False)
    max_waiting_tasks = serializers.IntegerField(required=False, allow_null=True)


class DeploymentSerializer(serializers.Serializer[Any]):
    """The code that workers deploy and start."""

    git_url = serializers.CharField()
    branch = serializers.CharField(required=False, default="main")
    code_path = serializers.CharField(required=False, allow_blank=True)
    startup_cmd = serializers.CharField()
    mode = serializers.ChoiceField(choices=_MODES, required=False, allow_null=True)
    startup_timeout_secs = serializers.IntegerField(required=False, default=60)
    requirements_file = serializers.CharField(required=False, allow_blank=True, default="requirements.txt")
    env_vars = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    redis_storage = serializers.BooleanField(required=False, default=True)
    vaults = serializers.ListField(child=serializers.CharField(), required=False)
    git_token = serializers.CharField(required=False, allow_blank=True, help_text="`vault://<vault>/<key>`")
    limits = QueueLimitsSerializer(required=False)

    def to_representation(self, instance: QueueSpec) -> dict[str, Any]:
        return write_deployment(instance)


class PayloadFieldSerializer(serializers.Serializer[Any]):
    """A field of a payload schema."""

    name = serializers.CharField()
    type = PayloadTypesField()
    required = serializers.BooleanField(required=False)  # type: ignore[assignment]
    default = serializers.JSONField(required=False)
    description = serializers.CharField(required=False, allow_blank=True)

    def to_representation(self, instance: PayloadField) -> dict[str, Any]:
        return write_field(instance)


class ValidatedMembersSerializer(BodySerializer):
    """The members that queue files do not have, and so do not validate."""

    error_class = QueueInvalid

    name = StringField(allow_blank=True, help_text="`inference.high` without `sub_queues` means a sub-queue")
    is_enabled = StrictBooleanField(required=False)

    def validate_name(self, name: str) -> str:
        if not name:
            raise serializers.ValidationError("This field may not be blank.", "required")
        return name


class QueueConfigInputSerializer(ValidatedMembersSerializer):
    """A queue, spelled as in queue files.

    The fields added here describe the definition; `upsert_queue` validates it by the rules of queue files.
    """

    priority = serializers.IntegerField(
        required=False, allow_null=True, help_text="Required unless `sub_queues` are given"
    )
    mode = serializers.ChoiceField(choices=_MODES, required=False, allow_null=True)
    order = serializers.ChoiceField(choices=_ORDERS, required=False)
    sub_queues = SubQueueSerializer(many=True, required=False)
    deployment = DeploymentSerializer()
    input = PayloadFieldSerializer(many=True, required=False)
    output = PayloadFieldSerializer(many=True, required=False)

    @classmethod
    def parse(cls, body: Any) -> QueueConfigInput:
        """Return the queue in a body. Raises RequestInvalid, QueueInvalid."""
        validated = ValidatedMembersSerializer.validated(body)
        return QueueConfigInput(
            name=validated["name"], definition=_definition(body), is_enabled=validated.get("is_enabled")
        )

    @classmethod
    def parse_replacement(cls, body: Any, *, name: str) -> QueueConfigInput:
        """Return what replaces a queue as a whole; the name in the body is ignored. Raises as `parse`."""
        validated = ValidatedMembersSerializer.validated(body, partial=True)
        definition = {"sub_queues": [], **_definition(body)}
        return QueueConfigInput(name=name, definition=definition, is_enabled=validated.get("is_enabled"))


def _definition(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a body that queue files have."""
    others = _READ_ONLY.union(ValidatedMembersSerializer().fields)
    return {name: value for name, value in body.items() if name not in others}


class QueueConfigSerializer(serializers.Serializer[Any]):
    """The configuration of a queue, or of one sub-queue."""

    priority = serializers.IntegerField()
    mode = serializers.ChoiceField(choices=_MODES, source="spec.mode")
    order = serializers.ChoiceField(choices=_ORDERS, source="spec.order")
    sub_queues = SubQueueSerializer(many=True, source="spec.sub_queues")
    deployment = DeploymentSerializer(source="spec")
    input = PayloadFieldSerializer(many=True, source="spec.input")
    output = PayloadFieldSerializer(many=True, source="spec.output")
    name = serializers.CharField(source="redis_queue", help_text="The Redis queue")
    queue = serializers.CharField(source="spec.name", help_text="The queue that it belongs to")
    sub_queue = EmptyAsNullField(allow_null=True)
    is_enabled = serializers.BooleanField(source="spec.is_enabled")
    source = serializers.ChoiceField(  # type: ignore[assignment]
        choices=["file", "admin", "api"], help_text="Where it was changed last"
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


@extend_schema_serializer(many=False)
class QueueConfigListSerializer(serializers.Serializer[Any]):
    """All queues, each sub-queue as an item of its own."""

    queues = QueueConfigSerializer(many=True)
    count = serializers.IntegerField()


class QueueConfigSavedSerializer(serializers.Serializer[Any]):
    """A queue that was created or updated."""

    queue = QueueConfigSerializer()
    message = serializers.CharField()
    published = PublishedField()


class QueueFileErrorSerializer(serializers.Serializer[Any]):
    """An error at one place of a queue file."""

    file = serializers.CharField()
    line = serializers.SerializerMethodField(help_text="Null for an error of the whole file")
    key = serializers.CharField(allow_blank=True)
    reason = serializers.CharField()

    def get_line(self, error: FileError) -> int | None:
        return error.line or None


class ReloadReportSerializer(serializers.Serializer[Any]):
    """What loading the queue files changed."""

    reloaded = serializers.SerializerMethodField(help_text="Added or updated")
    errors = serializers.ListField(child=serializers.CharField(), source="report.errors")  # type: ignore[assignment]
    timestamp = serializers.IntegerField(help_text="Unix seconds")
    added = serializers.ListField(child=serializers.CharField(), source="report.added")
    updated = serializers.ListField(child=serializers.CharField(), source="report.updated")
    unchanged = serializers.ListField(child=serializers.CharField(), source="report.unchanged")
    missing = serializers.ListField(
        child=serializers.CharField(), source="report.missing", help_text="Loaded once, no longer in any file"
    )
    overwritten = serializers.ListField(
        child=serializers.CharField(), source="report.overwritten", help_text="Had been edited elsewhere"
    )
    removed = serializers.ListField(child=serializers.CharField(), source="report.removed", help_text="By `prune`")
    unserved = serializers.ListField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="The Redis queues of these files that no worker serves now; null: Redis is unavailable",
    )
    problems = QueueFileErrorSerializer(many=True, source="report.errors")
    published = PublishedField()

    def get_reloaded(self, reload: Mapping[str, Any]) -> list[str]:
        report: LoadReport = reload["report"]
        return [*report.added, *report.updated]


class RemovedFromRedisSerializer(serializers.Serializer[Any]):
    """What was deleted from Redis."""

    tasks = serializers.DictField(child=serializers.IntegerField(), help_text="By state")
    keys = serializers.IntegerField(help_text="Counters, locks and other keys in Redis")


class QueueConfigDeletedSerializer(serializers.Serializer[Any]):
    """A queue that was deleted."""

    message = serializers.CharField()
    queue = serializers.CharField(source="removed.name")
    redis_queues = serializers.ListField(child=serializers.CharField(), source="removed.redis_queues")
    removed = RemovedFromRedisSerializer()
    published = PublishedField()


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
        source="counts.processed_today", help_text="Attempts of this UTC day, failed ones included"
    )
    failed_today = serializers.IntegerField(source="counts.failed_today")
    processed = serializers.IntegerField(source="counts.processed")
    failed = serializers.IntegerField(source="counts.failed")
    priority = serializers.IntegerField(source="place.priority", allow_null=True)
    parent = serializers.CharField(  # type: ignore[assignment]
        source="place.parent", allow_null=True, help_text="The queue that this is a sub-queue of"
    )
    is_defined = serializers.BooleanField(source="place.is_defined", help_text="False: only Redis knows it")
    is_enabled = serializers.BooleanField(source="place.is_enabled", help_text="Takes tasks")

    def get_oldest_pending_secs(self, status: QueueStatus) -> float:
        return round(status.counts.latency_s, 3)


class DailyAttemptsSerializer(serializers.Serializer[Any]):
    """The attempts of one UTC day."""

    date = serializers.DateField()
    processed = serializers.IntegerField(help_text="Failed ones included")
    failed = serializers.IntegerField()


class QueueDetailSerializer(QueueStatusSerializer):
    """A Redis queue with its pause, history and workers."""

    paused_by = EmptyAsNullField(source="pause.by", allow_null=True, help_text="Null when asynq's tools paused it")
    paused_since = UnixSecondsField(source="pause.since_s", allow_null=True)
    history = DailyAttemptsSerializer(many=True, help_text="Ten days, today first")
    workers = serializers.ListField(child=serializers.CharField(), help_text="Ids of those that serve it")


@extend_schema_serializer(many=False)
class QueueStatusListSerializer(serializers.Serializer[Any]):
    """All Redis queues."""

    queues = QueueStatusSerializer(many=True)
    count = serializers.IntegerField()


class QueuePausedSerializer(serializers.Serializer[Any]):
    """A queue that was paused or unpaused."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The Redis queue")
    paused = serializers.BooleanField()


class QueueRedeployedSerializer(serializers.Serializer[Any]):
    """A queue whose workers deploy the newest commit."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The queue as a whole, also when a sub-queue was named")
    workers = serializers.ListField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="Ids of those that deploy it now; others do when they register; null: Redis is unavailable",
    )
    published = PublishedField()

"""Says how the configuration of queues looks in answers, and in the schema."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from runqy.api.moments import moment_of

from queues.configurations import QueueView
from queues.definitions import QueueMode, QueueOrder
from queues.loading import LoadReport
from queues.removal import RemovedQueue
from queues.written import write_spec

REPORTED = ("added", "updated", "unchanged", "missing", "overwritten", "removed")


def config_answer(view: QueueView) -> dict[str, Any]:
    """Return the configuration of a queue, or of one of its sub-queues."""
    return write_spec(view.spec) | {
        "name": view.redis_queue,
        "priority": view.priority,
        "queue": view.spec.name,
        "sub_queue": view.sub_queue or None,
        "is_enabled": view.spec.is_enabled,
        "source": view.source,
        "created_at": moment_of(view.created_at),
        "updated_at": moment_of(view.updated_at),
    }


def reload_answer(report: LoadReport, *, unserved: list[str] | None, now_s: int) -> dict[str, Any]:
    """Return what loading the queue files did; released clients read the first three."""
    return {
        "reloaded": [*report.added, *report.updated],
        "errors": [str(error) for error in report.errors],
        "timestamp": now_s,
        **{which: getattr(report, which) for which in REPORTED},
        "unserved": unserved,
        "problems": [
            {"file": error.file, "line": error.line or None, "key": error.key, "reason": error.reason}
            for error in report.errors
        ],
    }


def removed_answer(removed: RemovedQueue) -> dict[str, Any]:
    """Return what is gone with a queue."""
    return {
        "message": f"Queue '{removed.name}' deleted successfully",
        "queue": removed.name,
        "redis_queues": list(removed.redis_queues),
        "removed": {"tasks": removed.tasks, "keys": removed.keys},
    }


class SubQueueOutput(serializers.Serializer[object]):
    """A line of its own within a queue."""

    name = serializers.CharField()
    priority = serializers.IntegerField(min_value=1, max_value=1000)


@extend_schema_field({"type": ["integer", "string", "null"], "examples": [300, "5m"]})
class SpanField(serializers.Field[Any, Any, Any, Any]):
    """Seconds, or in requests a duration such as `15m`; null leaves it to the server."""


@extend_schema_field({"type": ["string", "array"], "items": {"type": "string"}, "examples": [["string", "int"]]})
class TypesField(serializers.Field[Any, Any, Any, Any]):
    """The types that a payload's field may have; in requests a single one may stand alone."""


class QueueLimits(serializers.Serializer[object]):
    """What bounds the tasks of a queue; answers count seconds."""

    max_retry = serializers.IntegerField(required=False, allow_null=True)
    ttl_completed = SpanField(required=False)
    ttl_archived = SpanField(required=False)
    pending_timeout = SpanField(required=False)
    active_timeout = SpanField(required=False)
    retry_delay = SpanField(required=False)
    retry_max_delay = SpanField(required=False)


class DeploymentOutput(serializers.Serializer[object]):
    """What workers deploy and start."""

    git_url = serializers.CharField()
    branch = serializers.CharField(required=False, default="main")
    code_path = serializers.CharField(required=False, allow_blank=True)
    startup_cmd = serializers.CharField()
    mode = serializers.ChoiceField(choices=[mode.value for mode in QueueMode], required=False, allow_null=True)
    startup_timeout_secs = serializers.IntegerField(required=False, default=60)
    requirements_file = serializers.CharField(required=False, allow_blank=True, default="requirements.txt")
    env_vars = serializers.DictField(child=serializers.CharField(allow_blank=True), required=False)
    redis_storage = serializers.BooleanField(required=False, default=True)
    vaults = serializers.ListField(child=serializers.CharField(), required=False)
    git_token = serializers.CharField(required=False, allow_blank=True, help_text="`vault://<vault>/<key>`")
    limits = QueueLimits(required=False)


class PayloadFieldOutput(serializers.Serializer[object]):
    """A field of a payload schema."""

    name = serializers.CharField()
    type = TypesField()
    required = serializers.BooleanField(required=False)  # type: ignore[assignment]
    default = serializers.JSONField(required=False)
    description = serializers.CharField(required=False, allow_blank=True)


class ConfigBody(serializers.Serializer[object]):
    """A queue, spelled as in queue files."""

    name = serializers.CharField(help_text="`inference.high` without `sub_queues` means a sub-queue")
    priority = serializers.IntegerField(
        required=False, allow_null=True, help_text="Required unless `sub_queues` are given"
    )
    mode = serializers.ChoiceField(choices=[mode.value for mode in QueueMode], required=False, allow_null=True)
    order = serializers.ChoiceField(choices=[order.value for order in QueueOrder], required=False)
    sub_queues = SubQueueOutput(many=True, required=False)
    deployment = DeploymentOutput()
    input = PayloadFieldOutput(many=True, required=False)
    output = PayloadFieldOutput(many=True, required=False)
    is_enabled = serializers.BooleanField(required=False)


class ConfigOutput(serializers.Serializer[QueueView]):
    """The configuration of a queue, or of one sub-queue; `config_answer` makes it."""

    name = serializers.CharField(help_text="The Redis queue")
    priority = serializers.IntegerField()
    queue = serializers.CharField(help_text="The queue that it belongs to")
    sub_queue = serializers.CharField(allow_null=True)
    is_enabled = serializers.BooleanField()
    mode = serializers.ChoiceField(choices=[mode.value for mode in QueueMode])
    order = serializers.ChoiceField(choices=[order.value for order in QueueOrder])
    sub_queues = SubQueueOutput(many=True)
    deployment = DeploymentOutput()
    input = PayloadFieldOutput(many=True)
    output = PayloadFieldOutput(many=True)
    source = serializers.ChoiceField(  # type: ignore[assignment]
        choices=["file", "admin", "api"], help_text="Where it was changed last"
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ConfigList(serializers.Serializer[object]):
    """All queues; each sub-queue stands for itself."""

    queues = ConfigOutput(many=True)
    count = serializers.IntegerField()


class ConfigSaved(serializers.Serializer[object]):
    """The answer to a queue that was created or updated."""

    queue = ConfigOutput()
    message = serializers.CharField()


class FileProblem(serializers.Serializer[object]):
    """What is wrong at one place of a queue file."""

    file = serializers.CharField()
    line = serializers.IntegerField(allow_null=True)
    key = serializers.CharField(allow_blank=True)
    reason = serializers.CharField()


class ReloadOutput(serializers.Serializer[LoadReport]):
    """What loading the queue files did."""

    reloaded = serializers.ListField(child=serializers.CharField(), help_text="Added or updated")
    errors = serializers.ListField(child=serializers.CharField())  # type: ignore[assignment]
    timestamp = serializers.IntegerField(help_text="Unix seconds")
    added = serializers.ListField(child=serializers.CharField())
    updated = serializers.ListField(child=serializers.CharField())
    unchanged = serializers.ListField(child=serializers.CharField())
    missing = serializers.ListField(child=serializers.CharField(), help_text="Loaded once, in no file any more")
    overwritten = serializers.ListField(child=serializers.CharField(), help_text="Had been edited elsewhere")
    removed = serializers.ListField(child=serializers.CharField(), help_text="By `prune`")
    unserved = serializers.ListField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="The Redis queues of these files that no worker serves now; null: Redis is away",
    )
    problems = FileProblem(many=True)


class RemovedPart(serializers.Serializer[object]):
    """How much is gone."""

    tasks = serializers.DictField(child=serializers.IntegerField(), help_text="By state")
    keys = serializers.IntegerField(help_text="Counters, locks and other keys in Redis")


class ConfigRemoved(serializers.Serializer[RemovedQueue]):
    """The answer to a queue that was deleted."""

    message = serializers.CharField()
    queue = serializers.CharField()
    redis_queues = serializers.ListField(child=serializers.CharField())
    removed = RemovedPart()

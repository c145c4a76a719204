"""Says how the traffic of queues looks in answers, and in the schema."""

from typing import Any

from rest_framework import serializers
from runqy.api.moments import moment_s

from queues.statistics import QueueDetail, QueueStatus


def status_answer(status: QueueStatus) -> dict[str, Any]:
    """Return what the API says about a Redis queue; released clients read the first nine."""
    counts, place = status.counts, status.place
    return {
        "queue": counts.queue,
        "pending": counts.pending,
        "active": counts.active,
        "scheduled": counts.scheduled,
        "retry": counts.retry,
        "archived": counts.archived,
        "completed": counts.completed,
        "paused": counts.is_paused,
        "memory_usage": status.memory_bytes,
        "aggregating": counts.aggregating,
        "size": counts.size,
        "oldest_pending_secs": round(counts.latency_s, 3),
        "processed_today": counts.processed_today,
        "failed_today": counts.failed_today,
        "processed": counts.processed,
        "failed": counts.failed,
        "priority": place.priority,
        "parent": place.parent,
        "is_defined": place.queue is not None,
        "is_enabled": place.queue is not None and place.queue.is_enabled,
    }


def detail_answer(detail: QueueDetail) -> dict[str, Any]:
    """Return all that the API says about a Redis queue."""
    pause = detail.pause
    return status_answer(detail.status) | {
        "paused_by": (pause and pause.by) or None,
        "paused_since": moment_s(pause.since_s if pause else None),
        "history": [{"date": day.date, "processed": day.processed, "failed": day.failed} for day in detail.history],
        "workers": detail.workers,
    }


class QueueStatusOutput(serializers.Serializer[QueueStatus]):
    """A Redis queue at a glance; `status_answer` makes it."""

    queue = serializers.CharField(help_text="The Redis queue")
    pending = serializers.IntegerField()
    active = serializers.IntegerField()
    scheduled = serializers.IntegerField()
    retry = serializers.IntegerField()
    archived = serializers.IntegerField()
    completed = serializers.IntegerField()
    paused = serializers.BooleanField()
    memory_usage = serializers.IntegerField(help_text="Bytes, estimated from a sample")
    aggregating = serializers.IntegerField(help_text="In groups of asynq's own clients")
    size = serializers.IntegerField(help_text="All tasks")
    oldest_pending_secs = serializers.FloatField(help_text="For how long the oldest pending task has waited")
    processed_today = serializers.IntegerField(help_text="Attempts of this UTC day, failed ones included")
    failed_today = serializers.IntegerField()
    processed = serializers.IntegerField()
    failed = serializers.IntegerField()
    priority = serializers.IntegerField(allow_null=True)
    parent = serializers.CharField(  # type: ignore[assignment]
        allow_null=True, help_text="The queue that this is a sub-queue of"
    )
    is_defined = serializers.BooleanField(help_text="False: only Redis knows it")
    is_enabled = serializers.BooleanField(help_text="Takes tasks")


class DayOutput(serializers.Serializer[object]):
    """The attempts of one UTC day."""

    date = serializers.DateField()
    processed = serializers.IntegerField(help_text="Failed ones included")
    failed = serializers.IntegerField()


class QueueDetailOutput(QueueStatusOutput):
    """A Redis queue with all that is known about it; `detail_answer` makes it."""

    paused_by = serializers.CharField(allow_null=True, help_text="Null where asynq's tools paused it")
    paused_since = serializers.DateTimeField(allow_null=True)
    history = DayOutput(many=True, help_text="Ten days, today first")
    workers = serializers.ListField(child=serializers.CharField(), help_text="Ids of those that serve it")


class QueueStatusList(serializers.Serializer[object]):
    """All Redis queues."""

    queues = QueueStatusOutput(many=True)
    count = serializers.IntegerField()


class QueueSwitched(serializers.Serializer[object]):
    """What pausing and unpausing answer."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The Redis queue")
    paused = serializers.BooleanField()


class QueueRedeployed(serializers.Serializer[object]):
    """What asking for the newest commit answers."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The queue as a whole, whichever sub-queue was named")
    workers = serializers.ListField(
        child=serializers.CharField(), help_text="Ids of those that will do it now; others when they register"
    )

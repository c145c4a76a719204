"""Says how tasks look to those who look after a queue, and what was done to them."""

from typing import Any

from rest_framework import serializers

from runqy.api.moments import moment_ns, moment_s
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from tasks.api.outputs import TaskOutput, task_info


def task_detail(record: TaskRecord) -> dict[str, Any]:
    """Return all that the API says about a task."""
    message, is_active = record.message, record.state is TaskState.ACTIVE
    return task_info(record) | {
        "attempts": record.attempts,
        "pending_since": moment_ns(record.pending_since_ns),
        "last_failed_at": moment_s(message.last_failed_at or None),
        "archived_at": moment_s(record.archived_at_s),
        "expires_at": moment_s(record.expires_at_s),
        "lease_ends_at": moment_s(record.score_s if is_active else None),
        "cancel_asked_at": moment_ns(record.cancel_asked_at_ns),
        "is_canceled": record.is_canceled,
        "child_deaths": record.child_deaths,
        "retention_secs": message.retention,
        "unique": bool(message.unique_key),
    }


class TaskDetailOutput(TaskOutput):
    """A task with all that is known about it; `task_detail` makes it."""

    attempts = serializers.IntegerField(help_text="Runs that began and counted")
    pending_since = serializers.DateTimeField(allow_null=True)
    last_failed_at = serializers.DateTimeField(allow_null=True)
    archived_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True, help_text="When it is forgotten")
    lease_ends_at = serializers.DateTimeField(allow_null=True, help_text="Until when its worker has to be heard of")
    cancel_asked_at = serializers.DateTimeField(allow_null=True)
    is_canceled = serializers.BooleanField()
    child_deaths = serializers.IntegerField()
    retention_secs = serializers.IntegerField(help_text="How long it is kept after it succeeded")
    unique = serializers.BooleanField(help_text="It was made with a unique_key")


class TaskPage(serializers.Serializer[object]):
    """Some of the tasks in a state."""

    tasks = TaskOutput(many=True)
    count = serializers.IntegerField(help_text="Of this page")
    next = serializers.CharField(allow_null=True, help_text="Where the next page is")


class TaskHandled(serializers.Serializer[object]):
    """What was done to a task."""

    message = serializers.CharField()
    task_id = serializers.CharField()


class TasksHandled(serializers.Serializer[object]):
    """What was done to the tasks of a state."""

    queue = serializers.CharField(help_text="The Redis queue")
    action = serializers.ChoiceField(choices=["run", "archive", "delete"])
    state = serializers.CharField()
    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="How many were in the state")
    affected = serializers.IntegerField(help_text="To how many it was done; none in a dry run")

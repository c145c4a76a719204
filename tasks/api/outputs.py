"""Says how a task looks in answers, in its bytes and in the schema."""

from typing import Any

from rest_framework import serializers

from runqy import durations
from runqy.api.moments import moment_ns, moment_s
from runqy.broker.message import REQUEST_ID, TRACEPARENT
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from tasks import payloads
from tasks.api.inputs import LONGEST_NAME
from tasks.api.options import MOST_SECONDS


def task_info(record: TaskRecord) -> dict[str, Any]:
    """Return what the API says about a task; payload and result keep their bytes."""
    message = record.message
    return {
        "id": record.id,
        "type": message.type,
        "queue": record.queue,
        "state": record.state,
        "payload": payloads.as_json(message.payload),
        "result": None if record.result is None else payloads.as_json(record.result),
        "max_retry": message.retry,
        "retried": record.retried,
        "last_err": record.error,
        "error": record.error if record.state is TaskState.ARCHIVED else None,
        "timeout": durations.format_s(message.timeout),
        "deadline": moment_s(message.deadline or None),
        "next_process_at": moment_s(record.next_process_at_s),
        "enqueued_at": moment_ns(record.enqueued_at_ns),
        "started_at": moment_ns(record.started_at_ns),
        "completed_at": moment_ns(record.completed_at_ns),
        "worker_id": record.worker_id or None,
        "request_id": message.headers.get(REQUEST_ID),
        "traceparent": message.headers.get(TRACEPARENT),
    }


class TaskOutput(serializers.Serializer[TaskRecord]):
    """A task in the schema; `task_info` makes it."""

    id = serializers.CharField()
    type = serializers.CharField(help_text="As asynq's tools show it: the Redis queue")
    queue = serializers.CharField(help_text="The Redis queue")
    state = serializers.ChoiceField(choices=[state.value for state in TaskState])
    payload = serializers.JSONField(help_text="The bytes that were sent, with the schema's defaults appended")
    result = serializers.JSONField(help_text="Text where the result is no JSON")
    max_retry = serializers.IntegerField()
    retried = serializers.IntegerField()
    last_err = serializers.CharField(allow_blank=True, help_text="The last run's error")
    error = serializers.CharField(allow_null=True, help_text="Why it was archived")
    timeout = serializers.CharField(help_text="Of one run, as a Go duration such as 10m0s")
    deadline = serializers.DateTimeField(allow_null=True)
    next_process_at = serializers.DateTimeField(allow_null=True)
    enqueued_at = serializers.DateTimeField(allow_null=True)
    started_at = serializers.DateTimeField(allow_null=True, help_text="Start of the last run")
    completed_at = serializers.DateTimeField(allow_null=True)
    worker_id = serializers.CharField(allow_null=True)
    request_id = serializers.CharField(allow_null=True, help_text="X-Request-ID of the request that made it")
    traceparent = serializers.CharField(allow_null=True, help_text="The trace it belongs to (W3C Trace Context)")


class TaskAnswer(serializers.Serializer[TaskRecord]):
    """What `/queue/…` answers."""

    info = TaskOutput()


class EnqueuedAnswer(serializers.Serializer[TaskRecord]):
    """What `POST /queue/add` answers."""

    info = TaskOutput()
    existing = serializers.BooleanField(required=False, help_text="With `unique_key`: an earlier task has it, this one")


class EnqueueBody(serializers.Serializer[object]):
    """The nested body of `POST /queue/add`; a flat one has the payload's members in the place of `data`."""

    queue = serializers.CharField(
        min_length=1, max_length=LONGEST_NAME, help_text="`inference`, or one of its sub-queues: `inference_high`"
    )
    data = serializers.DictField(required=False, help_text="The payload")  # type: ignore[assignment]
    timeout = serializers.IntegerField(
        required=False, min_value=0, max_value=MOST_SECONDS, help_text="Seconds one run may take"
    )
    delay = serializers.JSONField(required=False, help_text="Seconds, or a duration such as `15m`")
    process_at = serializers.DateTimeField(required=False, help_text="Instead of `delay`; in the past: at once")
    deadline = serializers.DateTimeField(required=False, help_text="After this it does not run any more")
    max_retry = serializers.IntegerField(required=False, min_value=0, max_value=1000)
    retention = serializers.IntegerField(
        required=False, min_value=0, max_value=MOST_SECONDS, help_text="Seconds to keep the result"
    )
    unique_key = serializers.CharField(
        required=False, max_length=256, help_text="No two tasks of a Redis queue with the same one wait or run"
    )
    unique_for = serializers.IntegerField(
        required=False, min_value=1, max_value=MOST_SECONDS, help_text="Seconds, and not beyond its end"
    )
    unique_until = serializers.ChoiceField(required=False, choices=["finished"], help_text="Without `unique_for`")
    on_conflict = serializers.ChoiceField(
        required=False, choices=["return", "reject"], help_text="`return`: 200 with the task that has the key; else 409"
    )

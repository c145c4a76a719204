"""Serializers of the history of runs: filters, runs, groups of errors, statistics."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from runqy.api.pagination import LimitSerializer
from runqy.api.query_parameters import DurationParameter, TextParameter
from runqy.api.serializers import AwareDateTimeField, BodySerializer, EmptyAsNullField, StrictChoiceField
from runqy.broker.states import RunOutcome
from runqy.core.formats import durations
from runqy.errors import choices_error
from tasks.history.error_groups import ErrorGroup
from tasks.history.queries import RunOrder
from tasks.history.releases import ReleaseStart
from tasks.history.rollups import SparseHistogram, percentile_ms

MAX_POINTS = 1500
_MAX_STEP_S = 365 * 86_400
_OUTCOMES = [outcome.value for outcome in RunOutcome]
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


MINUTES_SPAN = timedelta(days=2)
"""Statistics in minutes of a longer interval would read too many rows."""
_EARLIEST = datetime(2001, 1, 1, tzinfo=UTC)
_NEXT = "/api/runs?outcome=retried&limit=1&cursor=eyJvcmRlciI6Im5ld2VzdCJ9"


@extend_schema_field(
    {
        "type": "string",
        "pattern": f"^((?:{'|'.join(_OUTCOMES)})(,(?:{'|'.join(_OUTCOMES)}))*)?$",
        "examples": ["failed,timed_out"],
    }
)
class OutcomesParameter(serializers.Field[Any, Any, Any, Any]):
    """Outcomes, separated by commas."""

    def to_internal_value(self, data: str) -> frozenset[RunOutcome]:
        names = [name for name in data.split(",") if name]
        if any(name not in _OUTCOMES for name in names):
            raise serializers.ValidationError(choices_error(_OUTCOMES))
        return frozenset(map(RunOutcome, names))


@extend_schema_field({"type": ["integer", "string"], "examples": ["1m", 3600]})
class StepParameter(serializers.Field[Any, Any, Any, Any]):
    """A duration of whole minutes."""

    def to_internal_value(self, data: str) -> int:
        try:
            step_s = durations.parse_s(data)
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error
        if not 60 <= step_s <= _MAX_STEP_S or step_s % 60:
            raise serializers.ValidationError("Must be a multiple of one minute, at most 365 days.")
        return step_s


class RunQuerySerializer(BodySerializer):
    """Which runs to list."""

    queue = TextParameter("A queue, for all its sub-queues, or a single sub-queue")
    outcome = OutcomesParameter(required=False, help_text=f"Some of {', '.join(_OUTCOMES)}, separated by commas")
    worker = TextParameter("Id of a worker")
    commit = TextParameter("A deployed commit")
    fingerprint = TextParameter("A group of errors, from `/api/errors`")
    task_id = TextParameter("Id of a task")
    text = TextParameter(
        "Words that the excerpt of the payload, or the error, must contain; the last may be the beginning of a word. A "
        "page may have fewer runs than `limit`, or none, although more follow: `next` continues the search"
    )
    final = serializers.BooleanField(
        required=False, default=None, help_text="`true`: only runs that ended their task; `false`: only the others"
    )
    min_run = DurationParameter("Only runs that took this long or longer: seconds, or a duration such as `5m`")
    order = StrictChoiceField(
        required=False,
        choices=[order.value for order in RunOrder],
        default=RunOrder.NEWEST.value,
        help_text="`newest` by default; `slowest` leaves out runs of unknown duration",
    )

    def get_fields(self) -> dict[str, Any]:
        """Add `from`, which is a keyword of Python, and `to`."""
        since = AwareDateTimeField(required=False, source="since", help_text="Runs that ended at this time or later")
        until = AwareDateTimeField(required=False, source="until", help_text="Runs that ended before this time")
        return {**super().get_fields(), "from": since, "to": until}


class ErrorQuerySerializer(LimitSerializer, RunQuerySerializer):
    """Which runs to group by their errors."""

    def get_fields(self) -> dict[str, Any]:
        names = ("queue", "outcome", "worker", "commit", "from", "to", "limit")
        fields = super().get_fields()
        fields["from"].help_text += "; by default 24 hours before `to`, or before now"
        return {name: fields[name] for name in names}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Set the default, so that a request never counts the whole history."""
        if "since" in attrs:
            return attrs
        until = attrs.get("until") or timezone.now()
        return attrs | {"since": max(until, _EARLIEST) - timedelta(days=1)}


class StatsQuerySerializer(BodySerializer):
    """The interval and the steps of statistics."""

    step = StepParameter(required=False, help_text="`1m` by default, `1h` beyond a day; whole minutes")

    def get_fields(self) -> dict[str, Any]:
        start = AwareDateTimeField(required=False, source="start", help_text="By default an hour before `to`")
        end = AwareDateTimeField(required=False, source="end", help_text="By default now")
        return {"from": start, "to": end, **super().get_fields()}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        now = timezone.now()
        end: datetime = attrs.get("end") or now
        if not _EARLIEST < end < now + timedelta(days=2):
            raise serializers.ValidationError({"to": "Must be after the year 2000, and not in the future."})
        start: datetime = attrs.get("start") or end - timedelta(hours=1)
        step_s = attrs.get("step") or (60 if end - start <= timedelta(days=1) else 3600)
        if start >= end:
            raise serializers.ValidationError({"from": "Must be earlier than `to`."})
        if step_s % 3600 and end - start > MINUTES_SPAN:
            raise serializers.ValidationError({"step": "Must be whole hours for an interval of more than two days."})
        if (end - start) / timedelta(seconds=step_s) > MAX_POINTS:
            raise serializers.ValidationError({"step": f"Too short for the interval: at most {MAX_POINTS} steps."})
        return {"start": start, "end": end, "step_s": step_s}


class RunSerializer(serializers.Serializer[Any]):
    """An attempt that ended, or a task that ended without one. Texts are excerpts."""

    id = serializers.IntegerField(source="pk")
    task_id = serializers.CharField()
    queue = serializers.CharField(help_text="The queue's own name")
    sub_queue = EmptyAsNullField(allow_null=True)
    redis_queue = serializers.CharField()
    attempt = serializers.IntegerField(help_text="1, 2, 3 …; 0: the task ended without an attempt")
    outcome = serializers.ChoiceField(choices=_OUTCOMES)
    is_final = serializers.BooleanField(help_text="The task ended with it")
    is_foreign = serializers.BooleanField(help_text="By a worker of another program; read from the task's end state")
    worker_id = EmptyAsNullField(allow_null=True)
    commit = EmptyAsNullField(allow_null=True)
    request_id = EmptyAsNullField(allow_null=True)
    enqueued_at = serializers.DateTimeField(format=_TIME_FORMAT, allow_null=True)
    started_at = serializers.DateTimeField(format=_TIME_FORMAT, allow_null=True)
    ended_at = serializers.DateTimeField(format=_TIME_FORMAT)
    wait_ms = serializers.IntegerField(allow_null=True, help_text="From when the task was due until the run started")
    run_ms = serializers.IntegerField(allow_null=True)
    error_class = EmptyAsNullField(allow_null=True)
    error_message = EmptyAsNullField(allow_null=True)
    fingerprint = serializers.CharField(allow_null=True, help_text="The group of its error")
    payload = EmptyAsNullField(allow_null=True, help_text="Null where payloads are hidden, like the next two fields")
    result = EmptyAsNullField(allow_null=True)
    traceback = EmptyAsNullField(allow_null=True)


@extend_schema_serializer(many=False)
class RunPageSerializer(serializers.Serializer[Any]):
    """Some of the runs that match."""

    runs = RunSerializer(many=True)
    count = serializers.IntegerField(help_text="Runs on this page")
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class ErrorGroupSerializer(serializers.Serializer[Any]):
    """Failed runs of a queue whose errors differ only in numbers, ids, quoted texts and paths."""

    queue = serializers.CharField()
    fingerprint = serializers.CharField()
    error_class = EmptyAsNullField(source="sample.error_class", allow_null=True)
    error_message = serializers.CharField(source="sample.error_message", help_text="Of the sample")
    count = serializers.IntegerField()
    first_seen = serializers.DateTimeField(format=_TIME_FORMAT)
    last_seen = serializers.DateTimeField(format=_TIME_FORMAT)
    new_since_release = serializers.SerializerMethodField(
        help_text="The number of the queue's newest release, if the error did not occur before that ran tasks"
    )
    sample = RunSerializer(help_text="The newest run; of that release, if the error is new since it")

    def get_new_since_release(self, group: ErrorGroup) -> int | None:
        new_since: Mapping[tuple[str, str], ReleaseStart] = self.context["new_since"]
        return new_since[group.key].number if group.key in new_since else None


@extend_schema_serializer(many=False)
class ErrorGroupListSerializer(serializers.Serializer[Any]):
    """The largest groups of errors."""

    errors = ErrorGroupSerializer(many=True)  # type: ignore[assignment]
    count = serializers.IntegerField()
    is_partial = serializers.BooleanField(
        help_text="More than 100,000 failures match, of which only the newest are counted"
    )


class PercentilesSerializer(serializers.Serializer[Any]):
    """Percentiles of durations in ms; null without any."""

    p50 = serializers.FloatField(allow_null=True)
    p95 = serializers.FloatField(allow_null=True)
    p99 = serializers.FloatField(allow_null=True)

    def to_representation(self, instance: SparseHistogram) -> dict[str, float | None]:
        fractions = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        return {name: _rounded(percentile_ms(instance, fraction)) for name, fraction in fractions.items()}


class StatsPointSerializer(serializers.Serializer[Any]):
    """Statistics of one step."""

    start = serializers.DateTimeField()
    enqueued = serializers.IntegerField(help_text="Tasks enqueued in the step whose first attempt has ended")
    started = serializers.IntegerField(help_text="Attempts started in the step that have ended")
    completed = serializers.IntegerField(source="outcomes.completed")
    retried = serializers.IntegerField(source="outcomes.retried")
    failed = serializers.IntegerField(source="outcomes.failed")
    canceled = serializers.IntegerField(source="outcomes.canceled")
    timed_out = serializers.IntegerField(source="outcomes.timed_out")
    expired = serializers.IntegerField(source="outcomes.expired")
    lost = serializers.IntegerField(source="outcomes.lost")
    first_ended = serializers.IntegerField(
        source="failures.first_ended", help_text="First attempts that ended, and tasks that ended without any"
    )
    first_failed = serializers.IntegerField(source="failures.first_failed", help_text="Those of them that failed")
    tasks_ended = serializers.IntegerField(
        source="failures.tasks_ended", help_text="Tasks that ended for good: retries are no ends"
    )
    tasks_failed = serializers.IntegerField(source="failures.tasks_failed", help_text="Those of them that failed")
    dropped = serializers.IntegerField(help_text="Runs that were lost before they reached the history")
    wait_ms = PercentilesSerializer(source="wait_histogram", help_text="The time in the queue")
    run_ms = PercentilesSerializer(source="run_histogram", help_text="The duration of runs")
    backlog = serializers.IntegerField(allow_null=True, help_text="Pending tasks at the last sample; null: no sample")
    backlog_max = serializers.IntegerField(allow_null=True)
    oldest_ms = serializers.IntegerField(allow_null=True, help_text="The longest wait of the oldest pending task")


class QueueStatsSerializer(serializers.Serializer[Any]):
    """Statistics of a queue over time."""

    queue = serializers.CharField()
    step_secs = serializers.IntegerField()
    points = StatsPointSerializer(many=True)


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 1)


_RUN: dict[str, Any] = {
    "id": 4711,
    "task_id": "task-uuid",
    "queue": "inference",
    "sub_queue": "high",
    "redis_queue": "inference_high",
    "attempt": 1,
    "outcome": "retried",
    "is_final": False,
    "is_foreign": False,
    "worker_id": "worker-abc123",
    "commit": "4f2c9a1",
    "request_id": "3f1c09a27be44d10",
    "enqueued_at": "2024-01-15T12:44:58.120000Z",
    "started_at": "2024-01-15T12:44:59.120000Z",
    "ended_at": "2024-01-15T12:45:00.620000Z",
    "wait_ms": 1000,
    "run_ms": 1500,
    "error_class": "ValueError",
    "error_message": "no model named 'x'",
    "fingerprint": "0f6b1c9e3a5d47f28c1e0b9d6a7f5e42",
    "payload": '{"prompt":"Hello world"}',
    "result": None,
    "traceback": None,
}
RUN_PAGE = OpenApiExample("Response", {"runs": [_RUN], "count": 1, "next": _NEXT}, response_only=True)
ERROR_GROUPS = OpenApiExample(
    "Response",
    {
        "errors": [
            {
                "queue": "inference",
                "fingerprint": _RUN["fingerprint"],
                "error_class": "ValueError",
                "error_message": "no model named 'x'",
                "count": 759,
                "first_seen": "2024-01-15T09:12:07.004000Z",
                "last_seen": "2024-01-15T12:45:00.620000Z",
                "new_since_release": 7,
                "sample": _RUN,
            }
        ],
        "count": 1,
        "is_partial": False,
    },
    response_only=True,
)
STATS = OpenApiExample(
    "Response",
    {
        "queue": "inference",
        "step_secs": 60,
        "points": [
            {
                "start": "2024-01-15T12:45:00Z",
                "enqueued": 120,
                "started": 118,
                "completed": 115,
                "retried": 3,
                "failed": 0,
                "canceled": 0,
                "timed_out": 0,
                "expired": 0,
                "lost": 0,
                "first_ended": 117,
                "first_failed": 3,
                "tasks_ended": 115,
                "tasks_failed": 0,
                "dropped": 0,
                "wait_ms": {"p50": 12.1, "p95": 340.5, "p99": 890.0},
                "run_ms": {"p50": 1430.2, "p95": 2890.0, "p99": 4100.7},
                "backlog": 14,
                "backlog_max": 31,
                "oldest_ms": 910,
            }
        ],
    },
    response_only=True,
)

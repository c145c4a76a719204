"""Bodies of the schedules API."""

import json
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from runqy.api.query_parameters import TextParameter
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import BodySerializer, EmptyAsNullField, StrictSerializer, StringField
from schedules.definition_serializers import ScheduleDefinitionSerializer
from schedules.models import REASON_MAX_LENGTH, Fire, Schedule
from schedules.queries import ScheduleState, find_problem

NEXT_COUNT = 5
DEFINITION_EXAMPLE = {
    "name": "nightly-report",
    "queue": "inference_high",
    "payload": {"report": "sales"},
    "cron": "30 2 * * MON-FRI",
    "time_zone": "Europe/Berlin",
}
FIRE_EXAMPLE = {
    "due_at": "2026-11-30T01:30:00Z",
    "state": "enqueued",
    "reason": None,
    "triggered": False,
    "missed_since": None,
    "task_id": "5f1c2a52-5d0a-4c6f-9f5e-0d3c7b6f9a10",
    "queue": "inference_high",
    "settled_at": "2026-11-30T01:30:00.410Z",
    "task_state": "completed",
    "duration_ms": 1250,
}
SCHEDULE_EXAMPLE = {
    **DEFINITION_EXAMPLE,
    "options": {},
    "every": None,
    "jitter": 0,
    "starts_at": None,
    "ends_at": None,
    "overlap": "skip",
    "catch_up": "last",
    "catch_up_window": None,
    "state": "active",
    "paused_reason": None,
    "next": ["2026-11-30T01:30:00Z"],
    "last_fire": FIRE_EXAMPLE,
    "problem": None,
    "source": "api",
    "created_at": "2026-11-26T08:00:00Z",
    "created_by": {"kind": "key", "name": "deploy"},
}


@request_example(DEFINITION_EXAMPLE)
class CreateScheduleSerializer(ScheduleDefinitionSerializer):
    """A schedule to create."""


@request_example({name: value for name, value in DEFINITION_EXAMPLE.items() if name != "name"})
class ReplaceScheduleSerializer(ScheduleDefinitionSerializer):
    """A schedule to save under the name in the path."""

    def get_fields(self) -> dict[str, Any]:
        name = StringField(required=False, max_length=100, help_text="That of the path, or left out")
        return {**super().get_fields(), "name": name}


class ScheduleQuerySerializer(BodySerializer):
    """Which schedules to list."""

    queue = TextParameter("Only schedules of this queue or sub-queue.")


@request_example({"reason": "The report is being rewritten."})
class PauseSerializer(StrictSerializer):
    """Why a schedule is paused."""

    reason = StringField(
        default="", allow_blank=True, max_length=REASON_MAX_LENGTH, help_text="Shown wherever the schedule is"
    )


@response_example({"message": "schedule deleted", "name": "nightly-report"})
class ScheduleDeletedSerializer(serializers.Serializer[Any]):
    """A schedule that was deleted."""

    message = serializers.CharField()
    name = serializers.CharField()


class CreatorSerializer(serializers.Serializer[Any]):
    """What created an object: a key, which may be revoked since, a user or a command."""

    kind = serializers.CharField()
    name = serializers.CharField()


@response_example(FIRE_EXAMPLE)
class FireSerializer(serializers.Serializer[Any]):
    """A due time of a schedule, or a trigger, and its task."""

    due_at = serializers.DateTimeField(source="fire.due_at")
    state = serializers.ChoiceField(choices=Fire.State.values, source="fire.state")
    reason = EmptyAsNullField(source="fire.reason", allow_null=True)
    triggered = serializers.BooleanField(source="fire.is_triggered")
    missed_since = serializers.DateTimeField(
        source="fire.missed_since",
        allow_null=True,
        help_text="The first of the due times that passed while no maintenance ran, for which this one stands",
    )
    task_id = serializers.CharField(source="fire.task_id")
    queue = EmptyAsNullField(source="fire.redis_queue", allow_null=True, help_text="The Redis queue of the task")
    settled_at = serializers.DateTimeField(source="fire.settled_at", allow_null=True)
    task_state = serializers.CharField(allow_null=True, help_text="Null: Redis does not have the task")
    duration_ms = serializers.IntegerField(source="run_ms", allow_null=True, help_text="Of its last run")


@response_example(SCHEDULE_EXAMPLE)
class ScheduleSerializer(serializers.Serializer[Any]):
    """A schedule. The context has the states and the last fires by primary key."""

    name = serializers.CharField()
    queue = serializers.CharField()
    payload = serializers.SerializerMethodField()
    options = serializers.DictField()
    cron = EmptyAsNullField(allow_null=True)
    every = serializers.SerializerMethodField()
    time_zone = serializers.CharField()
    jitter = serializers.IntegerField(source="jitter_s")
    starts_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)
    overlap = serializers.CharField()
    catch_up = serializers.CharField()
    catch_up_window = serializers.IntegerField(source="catch_up_window_s", allow_null=True)
    state = serializers.SerializerMethodField()
    paused_reason = EmptyAsNullField(allow_null=True)
    next = serializers.SerializerMethodField()
    last_fire = serializers.SerializerMethodField()
    problem = serializers.SerializerMethodField()
    source = serializers.CharField(  # type: ignore[assignment]  # not the attribute: DRF collects fields
        help_text="Where it was last saved: `api`, `admin` or `file`"
    )
    created_at = serializers.DateTimeField()
    created_by = CreatorSerializer(source="creator")

    @extend_schema_field({"description": "The payload of each task"})
    def get_payload(self, schedule: Schedule) -> Any:
        return json.loads(schedule.payload)

    @extend_schema_field({"type": ["integer", "null"], "description": "Seconds"})
    def get_every(self, schedule: Schedule) -> int | None:
        return schedule.every_s or None

    @extend_schema_field({"type": "string", "enum": [state.value for state in ScheduleState]})
    def get_state(self, schedule: Schedule) -> str:
        state: ScheduleState = self.context["states"][schedule.pk]
        return state.value

    @extend_schema_field(FireSerializer(allow_null=True, help_text="Null: it has not fired yet"))
    def get_last_fire(self, schedule: Schedule) -> Any:
        fire = self.context["fires"].get(schedule.pk)
        return None if fire is None else FireSerializer(fire).data

    @extend_schema_field(
        {
            "type": ["string", "null"],
            "description": "Why the last fire enqueued nothing, or that its task failed; null: neither",
        }
    )
    def get_problem(self, schedule: Schedule) -> str | None:
        return find_problem(schedule, self.context["fires"].get(schedule.pk)) or None

    @extend_schema_field({"type": "array", "items": {"type": "string", "format": "date-time"}})
    def get_next(self, schedule: Schedule) -> list[str]:
        """The next due times, without jitter; empty while it is paused."""
        field = serializers.DateTimeField()
        return [str(field.to_representation(time)) for time in schedule.list_next(NEXT_COUNT)]


@extend_schema_serializer(
    many=False,
    examples=[OpenApiExample("schedules", value={"schedules": [SCHEDULE_EXAMPLE], "next": None}, response_only=True)],
)
class ScheduleListSerializer(serializers.Serializer[Any]):
    """A page of schedules, by name."""

    schedules = ScheduleSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


@extend_schema_serializer(
    many=False, examples=[OpenApiExample("fires", value={"fires": [FIRE_EXAMPLE], "next": None}, response_only=True)]
)
class FireListSerializer(serializers.Serializer[Any]):
    """A page of fires, the latest first."""

    fires = FireSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")

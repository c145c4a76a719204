"""The schema of a schedule for the API, queue files and the admin's form."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

from django.core.exceptions import ValidationError as ModelValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from queues.definition_serializers import DurationField
from runqy.api.serializers import AwareDateTimeField, StrictChoiceField, StrictSerializer, StringField
from runqy.broker.tasks.enqueue import NewTask
from runqy.core.formats.timestamps import get_zone
from runqy.errors import PayloadInvalid, RequestInvalid
from schedules.models import Schedule
from schedules.requested_tasks import ALLOWED_OPTIONS, request_task
from schedules.specs import MAX_JITTER_S, MAX_WINDOW_S, CatchUp, Overlap, ScheduleSpec
from schedules.times import FIRST_TIME, LAST_TIME, MAX_EVERY_S, MIN_EVERY_S, parse_cron
from tasks.payloads import parse_payload


class CronField(StringField):
    """Five fields, or a name such as `@daily`."""

    def to_internal_value(self, data: Any) -> str:
        try:
            return parse_cron(super().to_internal_value(data))
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class TimeZoneField(StringField):
    """The name of a time zone."""

    def to_internal_value(self, data: Any) -> str:
        try:
            return get_zone(super().to_internal_value(data)).key
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class BoundedTimeField(AwareDateTimeField):
    """A time that may be due."""

    default_error_messages: ClassVar = {"bounds": f"Must be in the years {FIRST_TIME:%Y} to {LAST_TIME:%Y}."}

    def enforce_timezone(self, value: datetime) -> datetime:
        time = super().enforce_timezone(value)
        if not FIRST_TIME <= time <= LAST_TIME:
            self.fail("bounds")
        return time


class _ScheduleNameField(StringField):
    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data)
        try:
            Schedule(name=name).clean_fields(
                exclude=[field.name for field in Schedule._meta.fields if field.name != "name"]
            )
        except ModelValidationError as error:
            raise serializers.ValidationError(error.messages) from error
        return name


def _no_members() -> str:
    return "{}"


@extend_schema_field({"description": "Any JSON, checked by the queue's schema"})
class PayloadField(serializers.Field[Any, Any, Any, Any]):
    """A payload; kept as JSON on one line."""

    def to_internal_value(self, data: Any) -> str:
        try:
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            return parse_payload(text).decode()
        except (TypeError, ValueError, PayloadInvalid) as error:
            raise serializers.ValidationError("Must be JSON.") from error

    def to_representation(self, value: str) -> Any:
        return json.loads(value)


class ScheduleDefinitionSerializer(StrictSerializer):
    """A schedule. One of `cron` and `every` is required."""

    default_error_messages: ClassVar = {
        "timing": "One of cron and every is required.",
        "timings": "cron and every are mutually exclusive.",
        "range": "ends_at: Must be after starts_at.",
    }

    name = _ScheduleNameField(max_length=100)
    queue = StringField(max_length=255, help_text="`inference`, or one of its sub-queues: `inference_high`")
    payload = PayloadField(default=_no_members, help_text="Any JSON, checked by the queue's schema. Default: `{}`")
    options = serializers.DictField(
        default=dict, help_text=f"Options of `/queue/add`: {', '.join(f'`{name}`' for name in ALLOWED_OPTIONS)}"
    )
    cron = CronField(
        required=False, allow_null=True, help_text="Minute, hour, day of month, month, day of week; or `@daily` …"
    )
    every = DurationField(
        required=False,
        allow_null=True,
        min_value=MIN_EVERY_S,
        max_value=MAX_EVERY_S,
        source="every_s",
        help_text="Instead of `cron`: seconds, or a duration such as `15m`, counted from `starts_at`, or the creation",
    )
    time_zone = TimeZoneField(default="UTC", max_length=64, help_text="Of `cron`, such as `Europe/Berlin`")
    jitter = DurationField(
        default=0,
        min_value=0,
        max_value=MAX_JITTER_S,
        source="jitter_s",
        help_text="Each fire is later by a random time up to this",
    )
    starts_at = BoundedTimeField(required=False, allow_null=True, default=None)
    ends_at = BoundedTimeField(required=False, allow_null=True, default=None)
    overlap = StrictChoiceField(
        choices=[each.value for each in Overlap],
        default=Overlap.SKIP.value,
        help_text="While a task of the schedule has not ended: `skip` the due time, or `allow` it",
    )
    catch_up = StrictChoiceField(
        choices=[each.value for each in CatchUp],
        default=CatchUp.LAST.value,
        help_text="After an interruption: fire the `last` due time, or `skip` those that passed",
    )
    catch_up_window = DurationField(
        required=False,
        allow_null=True,
        default=None,
        min_value=1,
        max_value=MAX_WINDOW_S,
        source="catch_up_window_s",
        help_text="How late a fire may be, at most 22h; null: one period",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs["cron"], attrs["every_s"] = attrs.get("cron") or "", attrs.get("every_s") or 0
        if not attrs["cron"] and not attrs["every_s"]:
            self.fail("timing")
        if attrs["cron"] and attrs["every_s"]:
            self.fail("timings")
        if attrs["starts_at"] and attrs["ends_at"] and attrs["starts_at"] >= attrs["ends_at"]:
            self.fail("range")
        return attrs


def parse_schedule(data: Any, *, name: str | None = None) -> tuple[ScheduleSpec, NewTask]:
    """Return a schedule and the task that it requests. `name` is that of its path. Raise RequestInvalid."""
    if name is not None and isinstance(data, dict):
        if data.get("name", name) != name:
            raise RequestInvalid(errors=["name: Must be that of the path, or left out."])
        data = {**data, "name": name}
    values = ScheduleDefinitionSerializer.validated(data)
    spec = ScheduleSpec(**values | {"overlap": Overlap(values["overlap"]), "catch_up": CatchUp(values["catch_up"])})
    return replace(spec, options=dict(spec.options)), request_task(spec)

"""Bodies of the alerts API. `alert_data` of `operations` has the shape of an alert in messages too."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from alerts.acknowledgement import NOTE_MAX_LENGTH, SNOOZE_MAX, AlertSelection
from alerts.kinds import AlertKind, AlertLevel
from alerts.links import get_alert_link
from alerts.models import Alert
from alerts.queries import AlertState, list_related
from runqy.api.query_parameters import ChoiceParameter, TextParameter
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    AwareDateTimeField,
    BodySerializer,
    EmptyAsNullField,
    PatternField,
    StrictIntegerField,
    StrictSerializer,
    StringField,
)
from runqy.core.formats.names import QUEUE_NAME

_ALL_LEVELS = "all"


class AlertSerializer(serializers.Serializer[Any]):
    """An alert."""

    id = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in AlertKind])
    level = serializers.ChoiceField(choices=[level.value for level in AlertLevel])
    queue = EmptyAsNullField(help_text="The queue concerned, or null.", allow_null=True)
    subject = EmptyAsNullField(help_text="The queue or worker; null for the whole installation.", allow_null=True)
    message = serializers.CharField()
    since = serializers.DateTimeField(help_text="When the condition was first observed.")
    opened_at = serializers.DateTimeField(help_text="When the alert opened.")
    resolved_at = serializers.DateTimeField(allow_null=True, help_text="Null: open.")
    acknowledged_at = serializers.DateTimeField(allow_null=True, help_text="Since then nothing is sent about it.")
    snoozed_until = serializers.DateTimeField(allow_null=True, help_text="Until then nothing is sent about it.")
    note = EmptyAsNullField(help_text="What was noted when it was acknowledged or snoozed.", allow_null=True)
    noted_by = EmptyAsNullField(help_text="Who acknowledged or snoozed it.", allow_null=True)
    causes = serializers.SerializerMethodField(
        help_text="The ids of open alerts of the queue that explain it. Pages show it with these."
    )
    consequences = serializers.SerializerMethodField(
        help_text="The ids of open alerts of the queue that it explains, and that these explain."
    )
    url = serializers.SerializerMethodField(
        help_text="The page of the admin that shows the cause: a path, or a URL if RUNQY_PUBLIC_URL is set."
    )

    @classmethod
    def serialize(cls, alerts: Sequence[Alert]) -> Any:
        """Return alerts with what is related to them."""
        return cls(alerts, many=True, context={"related": list_related(alerts)}).data

    def get_causes(self, alert: Alert) -> list[int]:
        return [each.pk for each in self.context["related"][alert.pk].causes]

    def get_consequences(self, alert: Alert) -> list[int]:
        return [each.pk for each in self.context["related"][alert.pk].consequences]

    def get_url(self, alert: Alert) -> str:
        path, _ = get_alert_link(alert)
        return f"{settings.RUNQY_PUBLIC_URL}{path}"


ALERT = {
    "id": 7,
    "kind": "no_ready_worker",
    "level": "critical",
    "queue": "inference",
    "subject": "inference",
    "message": "Queue inference has 50 pending tasks and no ready worker.",
    "since": "2026-11-26T08:00:00Z",
    "opened_at": "2026-11-26T08:01:00Z",
    "resolved_at": None,
    "acknowledged_at": "2026-11-26T08:05:00Z",
    "snoozed_until": None,
    "note": "Restarting the GPU node.",
    "noted_by": "ann",
    "causes": [],
    "consequences": [9],
    "url": "https://runqy.example.com/admin/workers/worker/?queue=inference",
}


class AlertQuerySerializer(BodySerializer):
    """Which alerts to list."""

    state = ChoiceParameter([state.value for state in AlertState], "Default: open.", default=AlertState.OPEN)
    queue = TextParameter("Only alerts about this queue.")
    level = ChoiceParameter([_ALL_LEVELS, *(level.value for level in AlertLevel)], "Default: all.", default=_ALL_LEVELS)

    def get_fields(self) -> dict[str, Any]:
        """Add `from`, which is a keyword of Python."""
        since = AwareDateTimeField(
            required=False, source="since", help_text="Only alerts that were opened at this time or later"
        )
        return {**super().get_fields(), "from": since}


@extend_schema_serializer(many=False)
class AlertListSerializer(serializers.Serializer[Any]):
    """A page of alerts, the newest first."""

    alerts = AlertSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")


class AlertActionSerializer(StrictSerializer):
    """One alert, or the open alerts of a queue."""

    alert = StrictIntegerField(min_value=1, max_value=10**18, required=False, help_text="The id of an alert")
    queue = PatternField(QUEUE_NAME, required=False, help_text="In place of `alert`: all open alerts about this queue")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("alert" in attrs) == ("queue" in attrs):
            raise serializers.ValidationError({"alert": ["Name either an alert or a queue."]}, "required")
        return attrs

    @classmethod
    def select(cls, request: AuthenticatedRequest) -> tuple[AlertSelection, dict[str, Any]]:
        """Return the alerts that a request is about, and the other members of its body."""
        body = cls.validated(request.data)
        selection = AlertSelection(
            alert_id=body.pop("alert", None), queue=body.pop("queue", ""), allowed_queues=request.auth.queues
        )
        return selection, body


@request_example({"alert": 7, "note": "Restarting the GPU node."})
class AcknowledgeSerializer(AlertActionSerializer):
    """What to acknowledge."""

    note = StringField(
        required=False, default="", allow_blank=True, max_length=NOTE_MAX_LENGTH, help_text="Shown with the alert"
    )


@request_example({"queue": "inference", "until": "2026-11-26T12:00:00Z", "note": "Moving to another host."})
class SnoozeSerializer(AcknowledgeSerializer):
    """What to snooze; of a queue, also alerts that open until then."""

    until = AwareDateTimeField(
        help_text=f"When alerts that are open then are sent again; within {SNOOZE_MAX.days} days"
    )


@request_example({"alert": 7})
class ResumeSerializer(AlertActionSerializer):
    """What is no longer acknowledged or snoozed."""


@response_example({"alerts": [ALERT]})
class ChangedAlertsSerializer(serializers.Serializer[Any]):
    """The alerts that were changed."""

    alerts = AlertSerializer(many=True)

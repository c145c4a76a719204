"""Bodies of the alerts API."""

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from alerts.acknowledgement import NOTE_MAX_LENGTH, SNOOZE_MAX, AlertSelection
from alerts.kinds import AlertLevel
from alerts.queries import AlertState
from alerts.serializers import AlertSerializer
from runqy.api.query_parameters import ChoiceParameter, TextParameter
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import request_example, response_example
from runqy.api.serializers import (
    AwareDateTimeField,
    BodySerializer,
    PatternField,
    StrictIntegerField,
    StrictSerializer,
    StringField,
)
from runqy.core.formats.names import QUEUE_NAME

_ALL_LEVELS = "all"
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

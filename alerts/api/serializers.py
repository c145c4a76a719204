"""Bodies of the alerts API."""

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from alerts.queries import AlertState
from alerts.rules import AlertLevel
from alerts.serializers import AlertSerializer
from runqy.api.query_parameters import ChoiceParameter, TextParameter
from runqy.api.serializers import AwareDateTimeField, BodySerializer

_ALL_LEVELS = "all"


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

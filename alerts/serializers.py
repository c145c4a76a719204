"""The shape of an alert in the API. `alert_data` of `operations` has the same in messages."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from rest_framework import serializers

from alerts.kinds import AlertKind, AlertLevel
from alerts.links import get_alert_link
from alerts.models import Alert
from alerts.queries import list_related
from runqy.api.serializers import EmptyAsNullField


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

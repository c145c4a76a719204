"""The shape of an alert, in the API and in messages to the webhook."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from alerts.links import get_alert_link
from alerts.models import Alert, AlertDelivery, DeliveryEvent
from alerts.rules import AlertKind, AlertLevel
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
    url = serializers.SerializerMethodField(
        help_text="The page of the admin that shows the cause: a path, or a URL if RUNQY_PUBLIC_URL is set."
    )

    def get_url(self, alert: Alert) -> str:
        path, _ = get_alert_link(alert)
        return f"{settings.RUNQY_PUBLIC_URL}{path}"


class AlertMessageSerializer(serializers.Serializer[AlertDelivery]):
    """A message to the webhook."""

    type = serializers.SerializerMethodField()
    timestamp = serializers.DateTimeField(source="created_at")
    data = serializers.SerializerMethodField()  # type: ignore[assignment]  # not an attribute: DRF collects fields

    def get_type(self, delivery: AlertDelivery) -> str:
        return f"alert.{delivery.event}"

    def get_data(self, delivery: AlertDelivery) -> dict[str, Any]:
        """Return the alert. In the message that it opened it is unresolved, even if it was resolved meanwhile."""
        alert = AlertSerializer(delivery.alert).data
        return alert if delivery.event == DeliveryEvent.RESOLVED else {**alert, "resolved_at": None}

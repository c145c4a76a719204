"""Bodies of the alerts API."""

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from alerts.serializers import AlertSerializer


@extend_schema_serializer(many=False)
class AlertListSerializer(serializers.Serializer[Any]):
    """A page of alerts, the newest first."""

    alerts = AlertSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="The path of the next page; null on the last page")

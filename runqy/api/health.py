"""Tells load balancers and people whether this process can take requests."""

import structlog
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.serializers import CharField, ListField, Serializer
from rest_framework.views import APIView

from runqy.api.answers import json_answer
from runqy.broker.health import check_health
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable

log = structlog.get_logger(__name__)


class HealthOutput(Serializer[object]):
    """How the server is."""

    status = CharField(help_text="`ok`, or `unavailable` while Redis cannot be reached")
    redis = CharField(help_text="`ok` or `unavailable`")
    warnings = ListField(child=CharField())


class HealthView(APIView):
    """Public: says nothing about tasks or configuration."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="health",
        tags=["server"],
        auth=[],
        responses={200: HealthOutput, 503: OpenApiResponse(HealthOutput, "Redis cannot be reached")},
    )
    def get(self, request: Request) -> HttpResponse:
        """Tell whether the server can take tasks."""
        try:
            health = get_broker().run(check_health())
        except BrokerUnavailable as error:
            log.warning("broker_unavailable", error=error.detail)
            return json_answer({"status": "unavailable", "redis": "unavailable", "warnings": []}, status=503)
        warnings = []
        if health.may_lose_tasks:
            warnings.append(f"Redis evicts keys ({health.eviction_policy}) and may lose tasks: set noeviction.")
        return json_answer({"status": "ok", "redis": "ok", "warnings": warnings})

"""The routes /livez, /readyz and /health."""

from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar

import structlog
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from runqy.accounts.authentication import presented_key
from runqy.accounts.identities import find_identity, is_guessable
from runqy.api.schema import operation
from runqy.broker.health import check_health
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, NotReady
from runqy.redis_connection import get_broker
from runqy.server.health.readiness import CheckStatus, run_readiness_checks

log = structlog.get_logger(__name__)


_HEALTHY = OpenApiExample(
    "Healthy", {"status": "ok", "redis": "ok", "version": "1.0.0", "warnings": []}, status_codes=["200"]
)


class HealthSerializer(serializers.Serializer[Any]):
    """The state of the server."""

    status = serializers.CharField(help_text="`ok`")
    redis = serializers.CharField(help_text="`ok`")
    version = serializers.CharField(help_text="Of the server")
    warnings = serializers.ListField(child=serializers.CharField())


class LivenessSerializer(serializers.Serializer[Any]):
    """The process is alive."""

    status = serializers.CharField(help_text="`ok`")


class CheckResultSerializer(serializers.Serializer[Any]):
    """The outcome of a check."""

    check = serializers.CharField()
    status = serializers.ChoiceField(choices=[status.value for status in CheckStatus])
    detail = serializers.CharField(allow_blank=True)


class ReadinessSerializer(serializers.Serializer[Any]):
    """Whether the process can accept requests."""

    status = serializers.ChoiceField(choices=["ok", "degraded"])
    checks = CheckResultSerializer(many=True, required=False, help_text="With `?verbose`")


@method_decorator(cache_control(no_store=True), name="dispatch")
class HealthViewSet(ViewSet):
    """The state of this process and of what it depends on."""

    tag: ClassVar = "server"
    http_method_names = ("get", "head")
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    @operation("get_health", HealthSerializer, errors=(400, 503), auth=[], examples=[_HEALTHY])
    def health(self, request: Request) -> Response:
        """Show whether the server can accept tasks."""
        try:
            health = get_broker().run(check_health())
        except BrokerUnavailable as error:
            log.warning("broker_unavailable", error=str(error))
            raise BrokerUnavailable from error  # without the detail: the page is public
        warnings = []
        if health.may_lose_tasks:
            warnings.append(f"Redis evicts keys ({health.eviction_policy}) and may lose tasks: set noeviction.")
        content = {"status": "ok", "redis": "ok", "version": version("runqy"), "warnings": warnings}
        return Response(HealthSerializer(content).data)

    @operation(
        "get_liveness",
        LivenessSerializer,
        errors=(400,),
        auth=[],
        examples=[OpenApiExample("Alive", {"status": "ok"}, status_codes=["200"])],
    )
    def livez(self, request: Request) -> Response:
        """Show that the process is alive. Restart it when this fails."""
        return Response(LivenessSerializer({"status": "ok"}).data)

    @operation(
        "get_readiness",
        ReadinessSerializer,
        errors=(503,),
        auth=[],
        parameters=[
            OpenApiParameter(
                "verbose", str, description="List each check. Any value is accepted. `detail` is empty without a key"
            )
        ],
        examples=[OpenApiExample("Ready", {"status": "ok"}, status_codes=["200"])],
    )
    def readyz(self, request: Request) -> Response:
        """Show whether the process can accept requests: Redis, database, migrations, configuration, vault key.

        `degraded` is ready, with warnings. Otherwise the response is 503 `not_ready`; `?verbose` adds the `checks`,
        with their `detail` for requests with a key.
        """
        results = run_readiness_checks()
        is_verbose = "verbose" in request.query_params
        if is_verbose and not _has_key(request):
            results = [replace(result, detail="") for result in results]
        checks = list(CheckResultSerializer(results, many=True).data) if is_verbose else []
        if any(result.status is CheckStatus.FAILED for result in results):
            raise NotReady(checks)
        is_degraded = any(result.status is CheckStatus.WARNING for result in results)
        readiness = {"status": "degraded" if is_degraded else "ok"} | ({"checks": checks} if checks else {})
        return Response(ReadinessSerializer(readiness).data)


def _has_key(request: Request) -> bool:
    # Without I/O. Short keys do not count, because guesses are not limited here.
    key = presented_key(request.headers)
    try:
        return bool(key) and not is_guessable(key) and find_identity(key) is not None
    except ConfigurationUnavailable:
        return False

"""Tells load balancers and people whether this process lives, and whether it can take requests. Public."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.serializers import CharField, ChoiceField, ListField, Serializer
from rest_framework.views import APIView

from runqy.api.answers import RETRY_AFTER_S, json_answer
from runqy.broker.health import check_health
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable

log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"  # something works less well than it should
    FAILED = "failed"  # this process cannot take requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of a check, in words that anybody may read."""

    check: str
    verdict: Verdict = Verdict.OK
    detail: str = ""


class HealthOutput(Serializer[object]):
    """How the server is."""

    status = CharField(help_text="`ok`, or `unavailable` while Redis cannot be reached")
    redis = CharField(help_text="`ok` or `unavailable`")
    warnings = ListField(child=CharField())


class LifeOutput(Serializer[object]):
    """That the process lives."""

    status = CharField(help_text="`ok`")


class FindingOutput(Serializer[object]):
    """What a check found."""

    check = CharField()
    status = ChoiceField(choices=[verdict.value for verdict in Verdict])
    detail = CharField(allow_blank=True)


class ReadinessOutput(Serializer[object]):
    """Whether the process can take requests."""

    status = ChoiceField(choices=["ok", "degraded", "unavailable"])
    checks = FindingOutput(many=True, required=False, help_text="With `?verbose`")


class PublicView(APIView):
    """A view for anybody: says nothing about tasks or configuration, and is never to be kept."""

    authentication_classes = ()
    permission_classes = ()

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Keep answers, which are true only now, out of caches."""
        return {"Cache-Control": "no-store"}


class HealthView(PublicView):
    """Whether Redis answers."""

    @extend_schema(
        operation_id="health",
        tags=["server"],
        auth=[],
        responses={200: HealthOutput, 503: OpenApiResponse(HealthOutput, "Redis cannot be reached")},
        examples=[OpenApiExample("Healthy", {"status": "ok", "redis": "ok", "warnings": []}, status_codes=["200"])],
    )
    def get(self, request: Request) -> HttpResponse:
        """Tell whether the server can take tasks."""
        try:
            health = get_broker().run(check_health())
        except BrokerUnavailable as error:
            log.warning("broker_unavailable", error=error.detail)
            answer = json_answer({"status": "unavailable", "redis": "unavailable", "warnings": []}, status=503)
            answer["Retry-After"] = RETRY_AFTER_S
            return answer
        warnings = []
        if health.may_lose_tasks:
            warnings.append(f"Redis evicts keys ({health.eviction_policy}) and may lose tasks: set noeviction.")
        return json_answer({"status": "ok", "redis": "ok", "warnings": warnings})


class LifeView(PublicView):
    """Whether the process lives; asks nobody else."""

    @extend_schema(
        operation_id="livez",
        tags=["server"],
        auth=[],
        responses={200: LifeOutput},
        examples=[OpenApiExample("Alive", {"status": "ok"}, status_codes=["200"])],
    )
    def get(self, request: Request) -> HttpResponse:
        """Tell that the process lives. Restart it when this does not answer."""
        return json_answer({"status": "ok"})


class ReadinessView(PublicView):
    """Whether the process can take requests."""

    find: Callable[[], list[Finding]] = staticmethod(list)
    """Does the checks; the composition root knows them."""

    @extend_schema(
        operation_id="readyz",
        tags=["server"],
        auth=[],
        parameters=[OpenApiParameter("verbose", str, description="With it, whatever its value: each check")],
        responses={200: ReadinessOutput, 503: OpenApiResponse(ReadinessOutput, "Send requests elsewhere")},
        examples=[OpenApiExample("Ready", {"status": "ok"}, status_codes=["200"])],
    )
    def get(self, request: Request) -> HttpResponse:
        """Tell whether the process can take requests: Redis, database, migrations, configuration, vaults' key.

        `degraded` is ready: what works does so without what the warnings name.
        """
        findings = self.find()
        verdicts = {finding.verdict for finding in findings}
        is_ready = Verdict.FAILED not in verdicts
        status = ("degraded" if Verdict.WARNING in verdicts else "ok") if is_ready else "unavailable"
        answer: dict[str, Any] = {"status": status}
        if "verbose" in request.GET:
            answer["checks"] = [{"check": f.check, "status": f.verdict, "detail": f.detail} for f in findings]
        response = json_answer(answer, status=200 if is_ready else 503)
        if not is_ready:
            response["Retry-After"] = RETRY_AFTER_S
        return response

"""Tells load balancers and people whether this process lives, and whether it can take requests. Public."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.serializers import CharField, ChoiceField, ListField, Serializer

from runqy.api.answers import json_answer, problem_answer
from runqy.api.schema import problems
from runqy.api.views import PublicView
from runqy.broker.health import check_health
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, NotReady

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

    status = CharField(help_text="`ok`")
    redis = CharField(help_text="`ok`")
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

    status = ChoiceField(choices=["ok", "degraded"])
    checks = FindingOutput(many=True, required=False, help_text="With `?verbose`")


class HealthView(PublicView):
    """Whether Redis answers."""

    @extend_schema(
        operation_id="health",
        tags=["server"],
        auth=[],
        responses={200: HealthOutput, **problems(503)},
        examples=[OpenApiExample("Healthy", {"status": "ok", "redis": "ok", "warnings": []}, status_codes=["200"])],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """Tell whether the server can take tasks."""
        try:
            health = get_broker().run(check_health())
        except BrokerUnavailable as error:
            log.warning("broker_unavailable", error=error.detail)
            return problem_answer(BrokerUnavailable(), request)  # the address is nobody's business here
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
    def get(self, request: HttpRequest) -> HttpResponse:
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
        responses={200: ReadinessOutput, **problems(503)},
        examples=[OpenApiExample("Ready", {"status": "ok"}, status_codes=["200"])],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """Tell whether the process can take requests: Redis, database, migrations, configuration, vaults' key.

        `degraded` is ready: what works does so without what the warnings name. Otherwise it is 503 `not_ready`, and
        with `?verbose` it has the `checks` as well.
        """
        findings = self.find()
        verdicts = {finding.verdict for finding in findings}
        checks = [{"check": f.check, "status": f.verdict, "detail": f.detail} for f in findings]
        told = checks if "verbose" in request.GET else []
        if Verdict.FAILED in verdicts:
            return problem_answer(NotReady(told), request)
        answer: dict[str, Any] = {"status": "degraded" if Verdict.WARNING in verdicts else "ok"}
        return json_answer(answer | ({"checks": told} if told else {}))

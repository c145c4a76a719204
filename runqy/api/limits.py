"""Tells clients the numbers that errors name, so that they can keep to them."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.serializers import IntegerField, Serializer

from runqy.accounts.identity import Role
from runqy.api.answers import json_answer
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.broker.rates import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers that errors name."""

    body_bytes: int
    batch_tasks: int
    wait_s: int
    waiters: int
    timeout_s: int
    delay_s: int
    retention_s: int
    max_retry: int
    unique_key_length: int
    idempotency_s: int
    result_bytes: int
    child_deaths: int
    vault_value_bytes: int
    rate_limit: Rate | None
    auth_failure_limit: Rate | None


class RateOutput(Serializer[Rate]):
    """A rate in the schema."""

    most = IntegerField(help_text="Requests")
    window_s = IntegerField(help_text="in so many seconds")


class ServerLimitsOutput(Serializer[Limits]):
    """The limits in the schema."""

    body_bytes = IntegerField(help_text="Of a request's body (RUNQY_MAX_BODY_SIZE)")
    batch_tasks = IntegerField(help_text="Of a batch")
    wait_s = IntegerField(help_text="The longest `wait`")
    waiters = IntegerField(help_text="Requests that wait in one process (RUNQY_MAX_WAITERS)")
    timeout_s = IntegerField(help_text="The longest of a run")
    delay_s = IntegerField(help_text="The longest before a task may start")
    retention_s = IntegerField(help_text="The longest that a result is kept")
    max_retry = IntegerField()
    unique_key_length = IntegerField(help_text="Characters of a `unique_key`")
    idempotency_s = IntegerField(help_text="How long an `Idempotency-Key` is remembered")
    result_bytes = IntegerField(help_text="Of what a task answers")
    child_deaths = IntegerField(help_text="As many processes may die of a task before it is archived")
    vault_value_bytes = IntegerField(help_text="Of a vault's value")
    rate_limit = RateOutput(allow_null=True, help_text="Of each key (RUNQY_RATE_LIMIT); null: none")
    auth_failure_limit = RateOutput(
        allow_null=True, help_text="Of wrong keys from an address (RUNQY_AUTH_FAILURE_LIMIT); null: none"
    )


class LimitsView(KeyedView):
    """The limits of this server."""

    roles: ClassVar = frozenset(Role)

    @staticmethod
    def read() -> Limits:
        """Give the limits; the composition root knows them and puts its own function in this place."""
        raise NotImplementedError

    @extend_schema(
        operation_id="get_limits",
        tags=["server"],
        responses={200: ServerLimitsOutput, **problems(401, 429, 503)},
        examples=[
            OpenApiExample(
                "Limits",
                response_only=True,
                status_codes=["200"],
                value={
                    "body_bytes": 52428800,
                    "batch_tasks": 10000,
                    "wait_s": 300,
                    "waiters": 64,
                    "timeout_s": 315360000,
                    "delay_s": 315360000,
                    "retention_s": 315360000,
                    "max_retry": 1000,
                    "unique_key_length": 256,
                    "idempotency_s": 86400,
                    "result_bytes": 33554432,
                    "child_deaths": 3,
                    "vault_value_bytes": 65536,
                    "rate_limit": None,
                    "auth_failure_limit": {"most": 30, "window_s": 60},
                },
            )
        ],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """Tell the numbers that errors name."""
        return json_answer(asdict(self.read()))

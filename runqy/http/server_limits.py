"""GET /api/limits: the limits of this server."""

from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import problem_responses
from runqy.api.viewsets import ApiViewSet
from runqy.api_keys import Identity, Role
from runqy.broker.rate_limit import Rate
from runqy.broker.tasks.enqueue import IDEMPOTENCY_TTL_S
from tasks.api.parsers import MAX_RETRY, MAX_SECONDS, MAX_UNIQUE_KEY_LENGTH
from tasks.api.waits import MAX_WAIT_S
from tasks.batches import MAX_BATCH_TASKS
from tasks.waiting import WaiterLimits
from vaults.entry_rules import VALUE_MAX_BYTES
from workers.runtime.protocol import MAX_LINE_BYTES
from workers.runtime.task_runs import MAX_CHILD_DEATHS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    body_bytes: int
    batch_tasks: int
    wait_s: int
    waiters: int
    waiters_per_key: int
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


class RateSerializer(serializers.Serializer[Any]):
    """A rate."""

    most = serializers.IntegerField(source="limit", help_text="Requests")
    window_s = serializers.IntegerField(help_text="Seconds")


class LimitsSerializer(serializers.Serializer[Any]):
    """The limits of this server."""

    body_bytes = serializers.IntegerField(help_text="Size of a request body (RUNQY_MAX_BODY_SIZE)")
    batch_tasks = serializers.IntegerField(help_text="Tasks in a batch")
    wait_s = serializers.IntegerField(help_text="Maximum `wait`")
    waiters = serializers.IntegerField(help_text="Waiting requests and streams of one process (RUNQY_MAX_WAITERS)")
    waiters_per_key = serializers.IntegerField(help_text="Waiting requests and streams of one key in one process")
    timeout_s = serializers.IntegerField(help_text="Maximum `timeout` of a run")
    delay_s = serializers.IntegerField(help_text="Maximum delay of a task")
    retention_s = serializers.IntegerField(help_text="Maximum retention of a result")
    max_retry = serializers.IntegerField()
    unique_key_length = serializers.IntegerField(help_text="Maximum length of a `unique_key`")
    idempotency_s = serializers.IntegerField(help_text="Time for which an `Idempotency-Key` is stored")
    result_bytes = serializers.IntegerField(help_text="Size of a task's result")
    child_deaths = serializers.IntegerField(help_text="Child processes that may die with a task before it is archived")
    vault_value_bytes = serializers.IntegerField(help_text="Size of a vault entry's value")
    rate_limit = RateSerializer(
        allow_null=True, help_text="Rate limit of this key: its own or RUNQY_RATE_LIMIT; null: none"
    )
    auth_failure_limit = RateSerializer(
        allow_null=True, help_text="Wrong keys from one address (RUNQY_AUTH_FAILURE_LIMIT); null: no limit"
    )


def current_limits(identity: Identity) -> ServerLimits:
    """Return the limits of a key's requests, each read where it is applied."""
    waiters = WaiterLimits(total=settings.RUNQY_MAX_WAITERS, threads=settings.RUNQY_WSGI_WAITERS)
    return ServerLimits(
        body_bytes=settings.RUNQY_MAX_BODY_SIZE,
        batch_tasks=MAX_BATCH_TASKS,
        wait_s=MAX_WAIT_S,
        waiters=waiters.total,
        waiters_per_key=waiters.per_client,
        timeout_s=MAX_SECONDS,
        delay_s=MAX_SECONDS,
        retention_s=MAX_SECONDS,
        max_retry=MAX_RETRY,
        unique_key_length=MAX_UNIQUE_KEY_LENGTH,
        idempotency_s=IDEMPOTENCY_TTL_S,
        result_bytes=MAX_LINE_BYTES,
        child_deaths=MAX_CHILD_DEATHS,
        vault_value_bytes=VALUE_MAX_BYTES,
        rate_limit=identity.rate or settings.RUNQY_RATE_LIMIT,
        auth_failure_limit=settings.RUNQY_AUTH_FAILURE_LIMIT,
    )


class LimitsViewSet(ApiViewSet):
    """The limits of this server."""

    roles: ClassVar = frozenset({Role.CLIENT, Role.WORKER})
    needs_confirmed_configuration = False

    @extend_schema(
        operation_id="get_limits",
        tags=["server"],
        responses={200: LimitsSerializer, **problem_responses(401, 429, 503)},
        examples=[
            OpenApiExample(
                "Limits",
                response_only=True,
                status_codes=["200"],
                value={
                    "body_bytes": 52428800,
                    "batch_tasks": 10000,
                    "wait_s": 300,
                    "waiters": 5000,
                    "waiters_per_key": 2500,
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
    def retrieve(self, request: AuthenticatedRequest) -> Response:
        """Return the limits of this server."""
        return Response(LimitsSerializer(current_limits(request.auth)).data)

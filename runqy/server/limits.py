"""GET /api/limits: the limits of this server."""

from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers
from rest_framework.response import Response

from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.broker.tasks.enqueue import IDEMPOTENCY_TTL_S
from runqy.core.api_keys import Role
from runqy.core.formats.durations import Rate
from tasks.api.calls import MAX_WAIT_S
from tasks.api.enqueue_bodies import MAX_RETRY, MAX_SECONDS, MAX_UNIQUE_KEY_LENGTH
from tasks.enqueue_many import MAX_REQUEST_TASKS
from tasks.waiting_loop import waiter_limits
from vaults.entry_rules import VALUE_MAX_BYTES
from workers.runtime.protocol import MAX_LINE_BYTES
from workers.runtime.task_runs import MAX_CHILD_DEATHS


class RateSerializer(serializers.Serializer[Any]):
    """A rate."""

    most = serializers.IntegerField(source="limit", help_text="Requests")
    window_s = serializers.IntegerField(help_text="Seconds")


def _limit(value: int | Callable[[], int], help_text: str = "") -> serializers.IntegerField:
    # DRF renders the default of a member that the instance lacks.
    return serializers.IntegerField(read_only=True, default=value, help_text=help_text)


class LimitsSerializer(serializers.Serializer[Any]):
    """The limits of this server, each read where it is applied."""

    body_bytes = _limit(lambda: settings.RUNQY_MAX_BODY_SIZE, "Size of a request body (RUNQY_MAX_BODY_SIZE)")
    batch_tasks = _limit(MAX_REQUEST_TASKS, "Tasks in a batch")
    wait_s = _limit(MAX_WAIT_S, "Maximum `wait`")
    waiters = _limit(lambda: waiter_limits().total, "Waiting requests and streams of one process (RUNQY_MAX_WAITERS)")
    waiters_per_key = _limit(
        lambda: waiter_limits().per_client, "Waiting requests and streams of one key in one process"
    )
    timeout_s = _limit(MAX_SECONDS, "Maximum `timeout` of a run")
    delay_s = _limit(MAX_SECONDS, "Maximum delay of a task")
    retention_s = _limit(MAX_SECONDS, "Maximum retention of a result")
    max_retry = _limit(MAX_RETRY)
    unique_key_length = _limit(MAX_UNIQUE_KEY_LENGTH, "Maximum length of a `unique_key`")
    idempotency_s = _limit(IDEMPOTENCY_TTL_S, "Time for which an `Idempotency-Key` is stored")
    result_bytes = _limit(MAX_LINE_BYTES, "Size of a task's result")
    child_deaths = _limit(
        MAX_CHILD_DEATHS, "Child processes that may die while running only this task before it is archived"
    )
    vault_value_bytes = _limit(VALUE_MAX_BYTES, "Size of a vault entry's value")
    rate_limit = RateSerializer(
        allow_null=True, help_text="Rate limit of this key: its own or RUNQY_RATE_LIMIT; null: none"
    )
    auth_failure_limit = RateSerializer(
        allow_null=True, help_text="Wrong keys from one address (RUNQY_AUTH_FAILURE_LIMIT); null: no limit"
    )


class LimitsViewSet(ApiViewSet):
    """The limits of this server."""

    tag: ClassVar = "server"
    roles: ClassVar = frozenset({Role.CLIENT, Role.WORKER})
    needs_confirmed_configuration = False

    @operation(
        "get_limits",
        LimitsSerializer,
        examples=[
            OpenApiExample(
                "Limits",
                LimitsSerializer({"rate_limit": None, "auth_failure_limit": Rate(30, 60)}).data,
                response_only=True,
                status_codes=["200"],
            )
        ],
    )
    def retrieve(self, request: AuthenticatedRequest) -> Response:
        """Return the limits of this server."""
        rates = {
            "rate_limit": request.auth.rate or settings.RUNQY_RATE_LIMIT,
            "auth_failure_limit": settings.RUNQY_AUTH_FAILURE_LIMIT,
        }
        return Response(LimitsSerializer(rates).data)

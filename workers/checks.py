"""System checks for settings that give workers more access than they need (`check --deploy`)."""

from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from runqy.accounts.queries import LIMITS_NOT_IN_REDIS, list_keys_not_limited_in_redis
from workers.queries import are_own_credentials_shared


@register(Tags.security, deploy=True)
def check_worker_credentials(**_: Any) -> list[CheckMessage]:
    """With the server's own credentials a worker can do anything in Redis."""
    if not are_own_credentials_shared():
        return []
    message = "Workers without their own Redis user receive the server's Redis credentials."
    hint = (
        "Set RUNQY_WORKER_REDIS_URL to a separate Redis user, or RUNQY_WORKER_ACL=required "
        "(docs/reference/redis-users.md)."
    )
    return [Error(message, hint=hint, id="runqy.E005")]


@register(Tags.security, deploy=True)
def check_redis_password(**_: Any) -> list[CheckMessage]:
    """If the server's Redis user has no password, workers can connect as that user."""
    if settings.REDIS_TARGET.password:
        return []
    message = "The server connects to Redis without a password, so anyone who reaches Redis can, including workers."
    return [
        Error(
            message,
            hint="Set a password for its user, and set REDIS_URL or REDIS_PASSWORD accordingly.",
            id="runqy.E007",
        )
    ]


@register(Tags.database, deploy=True)
def check_limited_keys(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Redis restricts a worker to the queues of its key only if the worker has a Redis user of its own."""
    if not databases or not list_keys_not_limited_in_redis():
        return []
    return [Error(LIMITS_NOT_IN_REDIS, id="runqy.E006")]

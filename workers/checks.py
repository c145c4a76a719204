"""Looks for settings that give workers more than they need (`check --deploy`)."""

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register

from workers.queries import are_own_credentials_shared


@register(Tags.security, deploy=True)
def check_worker_credentials(**_: Any) -> list[CheckMessage]:
    """With the server's own credentials a worker can do anything in Redis."""
    if not are_own_credentials_shared():
        return []
    message = "Workers that take no Redis user of their own are given the server's own Redis credentials."
    hint = "Set RUNQY_WORKER_REDIS_URL to a user of theirs (docs/operations.md), or RUNQY_WORKER_ACL=required."
    return [Error(message, hint=hint, id="runqy.E005")]

"""Collects the numbers that errors name, from where each is applied."""

from django.conf import settings

from runqy.api.limits import Limits
from runqy.broker.creating import RECORD_KEPT_S
from tasks.api.options import LONGEST_UNIQUE_KEY, MOST_RETRIES, MOST_SECONDS
from tasks.api.waits import MAX_WAIT_S
from tasks.batches import MOST_TASKS
from vaults.names import VALUE_MAX_BYTES
from workers.runtime.protocol import MAX_LINE_BYTES
from workers.runtime.settling import MAX_CHILD_DEATHS


def current_limits() -> Limits:
    """Return the limits of this server."""
    return Limits(
        body_bytes=settings.RUNQY_MAX_BODY_SIZE,
        batch_tasks=MOST_TASKS,
        wait_s=MAX_WAIT_S,
        waiters=settings.RUNQY_MAX_WAITERS,
        timeout_s=MOST_SECONDS,
        delay_s=MOST_SECONDS,
        retention_s=MOST_SECONDS,
        max_retry=MOST_RETRIES,
        unique_key_length=LONGEST_UNIQUE_KEY,
        idempotency_s=RECORD_KEPT_S,
        result_bytes=MAX_LINE_BYTES,
        child_deaths=MAX_CHILD_DEATHS,
        vault_value_bytes=VALUE_MAX_BYTES,
        rate_limit=settings.RUNQY_RATE_LIMIT,
        auth_failure_limit=settings.RUNQY_AUTH_FAILURE_LIMIT,
    )

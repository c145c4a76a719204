"""What an alert can be about."""

from collections.abc import Mapping
from enum import StrEnum


class AlertKind(StrEnum):
    """What an alert is about."""

    NO_READY_WORKER = "no_ready_worker"
    OLDEST_PENDING = "oldest_pending"
    FAILURE_RATE = "failure_rate"
    BACKLOG_GROWING = "backlog_growing"
    WORKER_MISSING = "worker_missing"
    WORKER_START_FAILED = "worker_start_failed"
    WORKER_NOT_CONSUMING = "worker_not_consuming"
    CONFIGURATION_NOT_PUBLISHED = "configuration_not_published"
    HISTORY_DROPPED = "history_dropped"
    VAULT_UNREADABLE = "vault_unreadable"
    REDIS_MEMORY = "redis_memory"
    INACTIVE_KEY_CREATOR = "inactive_key_creator"
    REDIS_FAILOVER = "redis_failover"
    SHARED_DEATHS = "shared_deaths"
    FIRE_MISSED = "fire_missed"
    ENQUEUE_UNKNOWN = "enqueue_unknown"
    ENDS_BACKLOG = "ends_backlog"
    ENDS_NEARLY_FULL = "ends_nearly_full"
    WEBHOOK_LATE = "webhook_late"
    WEBHOOK_FAILING = "webhook_failing"
    WEBHOOK_DISABLED = "webhook_disabled"
    WEBHOOK_DROPPED = "webhook_dropped"
    BATCH_INCOMPLETE = "batch_incomplete"
    BATCH_ABANDONED = "batch_abandoned"
    RELEASE_REVERTED = "release_reverted"
    REPLACEMENT_STALLED = "replacement_stalled"
    ROW_FAILED = "row_failed"


OF_ENDPOINTS = frozenset(
    {AlertKind.WEBHOOK_LATE, AlertKind.WEBHOOK_FAILING, AlertKind.WEBHOOK_DISABLED, AlertKind.WEBHOOK_DROPPED}
)
"""Kinds whose subject is the id of a webhook endpoint."""


class AlertLevel(StrEnum):
    """How urgent an alert is."""

    WARNING = "warning"
    CRITICAL = "critical"


EXPLAINS: Mapping[AlertKind, frozenset[AlertKind]] = {
    AlertKind.VAULT_UNREADABLE: frozenset({AlertKind.WORKER_START_FAILED, AlertKind.NO_READY_WORKER}),
    AlertKind.WORKER_START_FAILED: frozenset({AlertKind.NO_READY_WORKER}),
    AlertKind.NO_READY_WORKER: frozenset({AlertKind.OLDEST_PENDING, AlertKind.BACKLOG_GROWING}),
    AlertKind.WORKER_NOT_CONSUMING: frozenset({AlertKind.OLDEST_PENDING, AlertKind.BACKLOG_GROWING}),
    AlertKind.ENDS_NEARLY_FULL: frozenset({AlertKind.ENDS_BACKLOG}),
}
"""The consequences of each cause: while both are open for a queue, pages show the cause. No cause is less urgent than
what it hides."""


def consequences_of(kind: AlertKind) -> frozenset[AlertKind]:
    """Return the consequences of a cause, and theirs."""
    direct = EXPLAINS.get(kind, frozenset())
    return direct.union(*(consequences_of(each) for each in direct))

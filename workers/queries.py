"""Queries of workers and their state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from django.conf import settings

from queues.catalog import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.api_keys import Identity
from runqy.broker.broker import Broker
from runqy.broker.constants import HEARTBEAT_TTL_S
from runqy.broker.workers.claims import read_registration_times
from runqy.broker.workers.heartbeats import find_worker_record, list_running_tasks, list_worker_records
from runqy.broker.workers.records import RunningTask, WorkerRecord, WorkerState
from runqy.errors import WorkerNotFound

OWN_CREDENTIALS_SHARED = (
    "Workers without their own Redis user receive the server's Redis credentials:"
    " set RUNQY_WORKER_REDIS_URL to a separate user, or RUNQY_WORKER_ACL=required."
)


IsAllowed = Callable[[str], bool]
"""Called with the name of a Redis queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker, the tasks that it runs, and whether it still reports."""

    record: WorkerRecord
    """What the worker reported. If its heartbeats are overdue, the state is `disconnected` and the reason says why."""
    running: tuple[RunningTask, ...]
    is_stale: bool
    """Its heartbeats are overdue."""

    @property
    def disconnected_since_s(self) -> int | None:
        return self.record.last_beat_s if self.is_stale else None

    @property
    def has_problem(self) -> bool:
        """Return whether the worker is ready, but reports a problem as its reason."""
        return self.record.state is WorkerState.READY and bool(self.record.reason)


def are_own_credentials_shared() -> bool:
    own, shared = settings.REDIS_TARGET, settings.RUNQY_WORKER_REDIS_TARGET
    is_same = (own.username or "default", own.password) == (shared.username or "default", shared.password)
    return is_same and settings.RUNQY_WORKER_ACL != "required"


def list_registrable_queues(identity: Identity) -> list[str]:
    """Return the names, sorted, of the enabled queues that a key may register workers for.

    Raise ConfigurationUnavailable.
    """
    return [
        queue.name
        for queue in get_fresh_catalog().definitions
        if queue.is_enabled
        and (identity.queues is None or queue.name in identity.queues)
        and not queue.deployment.find_refused_vaults(identity.vaults)
    ]


def list_workers(broker: Broker, *, allowed_queues: AllowedQueues = None) -> list[WorkerStatus]:
    """Return the workers that sent a heartbeat in the last minute, sorted by id. They include Go's and asynq's servers.

    `allowed_queues` leaves only workers that serve one of these, and of their data only these. Raise BrokerUnavailable.
    """
    is_allowed = _get_queue_filter(allowed_queues)
    return _statuses(
        broker, [record for record in list_worker_records(broker) if _serves(record, is_allowed)], is_allowed
    )


def get_worker(broker: Broker, worker_id: str, *, allowed_queues: AllowedQueues = None) -> WorkerStatus:
    """Return one worker, as in `list_workers`. Raise WorkerNotFound, BrokerUnavailable."""
    record, is_allowed = find_worker_record(broker, worker_id), _get_queue_filter(allowed_queues)
    if record is None or not _serves(record, is_allowed):
        raise WorkerNotFound(f"No worker {worker_id[:128]!r} sent a heartbeat in the last minute.")
    return _statuses(broker, [record], is_allowed)[0]


def _statuses(broker: Broker, records: list[WorkerRecord], is_allowed: IsAllowed | None) -> list[WorkerStatus]:
    now_s = broker.now_s()
    running = broker.run(list_running_tasks(records)) if records else []
    disconnected = _mark_disconnected(broker, [record for record in records if record.is_stale(now_s)])
    return [
        WorkerStatus(
            record=_limit_to_queues(disconnected.get(record.worker_id, record), is_allowed),
            running=tuple(task for task in tasks if is_allowed is None or is_allowed(task.redis_queue)),
            is_stale=record.worker_id in disconnected,
        )
        for record, tasks in zip(records, running, strict=True)
    ]


def _mark_disconnected(broker: Broker, records: Sequence[WorkerRecord]) -> dict[str, WorkerRecord]:
    """Return the records of workers whose heartbeats are overdue as `disconnected`, with the reason, by worker id."""
    if not records:
        return {}
    registered_s = broker.run(read_registration_times([record.worker_id for record in records]))
    return {
        record.worker_id: replace(
            record, state=WorkerState.DISCONNECTED, reason=_disconnect_reason(record, registered_at_s)
        )
        for record, registered_at_s in zip(records, registered_s, strict=True)
    }


def _disconnect_reason(record: WorkerRecord, registered_at_s: int) -> str:
    silence = f"no heartbeat has reached Redis since {_format_time(record.last_beat_s)}"
    # A worker that has lost Redis registers again, over HTTP.
    if registered_at_s > record.last_beat_s + HEARTBEAT_TTL_S:
        cause = f"It cannot reach Redis: {silence}, but it registered over HTTP at {_format_time(registered_at_s)}."
    else:
        cause = f"It ended without notice or cannot reach Redis: {silence}."
    return f"{cause} Its last state was {record.state}."


def _format_time(unix_s: int) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _get_queue_filter(allowed_queues: AllowedQueues) -> IsAllowed | None:
    """Return a predicate for the Redis queues of these queues; None if all queues are allowed."""
    if allowed_queues is None:
        return None
    catalog = get_fresh_catalog()

    def is_allowed(redis_queue: str) -> bool:
        resolved = catalog.find(redis_queue)
        return resolved is not None and resolved.queue.name in allowed_queues

    return is_allowed


def _serves(record: WorkerRecord, is_allowed: IsAllowed | None) -> bool:
    return is_allowed is None or any(map(is_allowed, record.redis_queues))


def _limit_to_queues(record: WorkerRecord, is_allowed: IsAllowed | None) -> WorkerRecord:
    """Return a record without the queues that are not allowed. A Go worker may serve several queues."""
    if is_allowed is None or all(map(is_allowed, record.redis_queues)):
        return record
    redis_queues = {name: priority for name, priority in record.redis_queues.items() if is_allowed(name)}
    return replace(record, redis_queues=redis_queues, queue=",".join(redis_queues))

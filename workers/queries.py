"""What can be known about workers."""

from dataclasses import dataclass

from django.conf import settings

from queues.names import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.heartbeats import find_worker, find_workers
from runqy.broker.running import find_running
from runqy.broker.worker_records import RunningTask, WorkerRecord, WorkerState
from runqy.errors import WorkerNotFound

__all__ = ["OWN_CREDENTIALS_SHARED", "WorkerStatus", "are_own_credentials_shared", "get_worker", "list_workers"]


OWN_CREDENTIALS_SHARED = (
    "Workers that take no Redis user of their own are given the server's own Redis credentials:"
    " set RUNQY_WORKER_REDIS_URL to a user of theirs, or RUNQY_WORKER_ACL=required."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker, what it runs, and whether it still reports."""

    record: WorkerRecord
    running: tuple[RunningTask, ...]
    is_stale: bool
    """Its heartbeats are overdue."""

    @property
    def is_hindered(self) -> bool:
        """Tell whether it serves although something could not be done, which its reason tells."""
        return self.record.state is WorkerState.READY and bool(self.record.reason)


def are_own_credentials_shared() -> bool:
    """Return whether a worker can be given the credentials by which the server itself enters Redis."""
    own, shared = settings.REDIS_TARGET, settings.RUNQY_WORKER_REDIS_TARGET
    is_same = (own.username or "default", own.password) == (shared.username or "default", shared.password)
    return is_same and settings.RUNQY_WORKER_ACL != "required"


def list_workers(broker: Broker, *, allowed_queues: AllowedQueues = None) -> list[WorkerStatus]:
    """Return the workers that were heard of in the last minute, Go's among them, by id.

    Raises BrokerUnavailable.
    """
    return _statuses(broker, [record for record in find_workers(broker) if _is_allowed(record, allowed_queues)])


def get_worker(broker: Broker, worker_id: str, *, allowed_queues: AllowedQueues = None) -> WorkerStatus:
    """Return a worker. Raises WorkerNotFound, BrokerUnavailable."""
    record = find_worker(broker, worker_id)
    if record is None or not _is_allowed(record, allowed_queues):
        raise WorkerNotFound(f"No worker {worker_id[:128]!r} was heard of in the last minute.")
    return _statuses(broker, [record])[0]


def _statuses(broker: Broker, records: list[WorkerRecord]) -> list[WorkerStatus]:
    """Return workers with what they run."""
    now_s = broker.now_s()
    running = broker.run(find_running(records)) if records else []
    return [
        WorkerStatus(record=record, running=tuple(tasks), is_stale=record.is_stale(now_s))
        for record, tasks in zip(records, running, strict=True)
    ]


def _is_allowed(record: WorkerRecord, allowed_queues: AllowedQueues) -> bool:
    """Tell whether a worker serves one of some queues."""
    if allowed_queues is None:
        return True
    catalog = get_fresh_catalog()
    served = (catalog.find(name) for name in record.redis_queues)
    return any(resolved is not None and resolved.queue.name in allowed_queues for resolved in served)

"""What can be known about workers."""

from dataclasses import dataclass

from queues.names import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.heartbeats import find_worker, find_workers
from runqy.broker.running import find_running
from runqy.broker.worker_records import RunningTask, WorkerRecord, WorkerState
from runqy.errors import WorkerNotFound

__all__ = ["WorkerStatus", "get_worker", "list_workers"]


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

"""The numbers of the overview that are refreshed while it is open."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.health import is_maintenance_running
from runqy.broker.operation import Request, raise_error
from runqy.broker.queues.stats import QueueCounts, count_tasks, read_queue_names
from runqy.broker.workers.heartbeats import list_worker_ids, read_records
from runqy.broker.workers.records import WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNumbers:
    """The tasks of all Redis queues and all workers, at one time."""

    counts: Sequence[QueueCounts]
    """The counts of the defined Redis queues, then of those that exist only in Redis."""
    workers: Sequence[WorkerRecord]
    """The workers seen in the last minute, sorted by id."""
    is_maintenance_running: bool
    now_s: int


def read_live_numbers(broker: Broker, defined: Sequence[str]) -> LiveNumbers:
    """Return the numbers, in two round trips; `defined` are the Redis queues that definitions name.

    Raise BrokerUnavailable.
    """
    now_s, now_ns = broker.now_s(), broker.now_ns()
    existing, ids, is_running = _run_all(broker, read_queue_names(), list_worker_ids(now_s), is_maintenance_running())
    known = {*defined}
    names = [*defined, *(name for name in existing if name not in known)]
    counts, records = _run_all(broker, count_tasks(names, now_ns=now_ns), read_records(*ids))
    return LiveNumbers(
        counts=counts,
        workers=sorted((record for record in records if record), key=lambda record: record.worker_id),
        is_maintenance_running=is_running,
        now_s=now_s,
    )


def _run_all(broker: Broker, *requests: Request[Any]) -> list[Any]:
    return [raise_error(outcome) for outcome in broker.run_all(requests)]

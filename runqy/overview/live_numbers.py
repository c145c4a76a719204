"""The numbers that open overviews refresh all the time: read in one round trip, and shared by those of a process."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.health import is_maintenance_running
from runqy.broker.operation import Request, raise_error
from runqy.broker.queues.stats import QueueCounts, count_tasks, read_queue_names
from runqy.broker.workers.heartbeats import list_worker_ids, read_records
from runqy.broker.workers.records import WorkerRecord

MAX_AGE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNumbers:
    """The tasks of all Redis queues and all workers, at one time."""

    counts: Sequence[QueueCounts]
    """Of the defined Redis queues, then of those that exist only in Redis."""
    workers: Sequence[WorkerRecord]
    """Those seen in the last minute, sorted by id."""
    is_maintenance_running: bool
    now_s: int


class LiveReader:
    """Reads the numbers in one round trip: names are read together with the counts of the names read before.

    Only names that are new cost another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._existing: list[str] = []
        self._worker_ids: tuple[list[str], list[str]] = ([], [])
        self._read_at_s = float("-inf")
        self._defined: Sequence[str] = ()
        self._numbers: LiveNumbers | None = None
        self._broker: Broker | None = None

    def read(self, broker: Broker, defined: Sequence[str], *, max_age_s: float = MAX_AGE_S) -> LiveNumbers:
        """Return the numbers, at most `max_age_s` old; `defined` are the Redis queues that definitions name.

        Raise BrokerUnavailable.
        """
        with self._lock:
            numbers, age_s = self._numbers, clock.monotonic_s() - self._read_at_s
            is_same = broker is self._broker and list(defined) == list(self._defined)
            if numbers is None or age_s > max_age_s or not is_same:
                numbers = self._numbers = self._read(broker, defined)
                self._read_at_s, self._defined, self._broker = clock.monotonic_s(), list(defined), broker
        return numbers

    def clear(self) -> None:
        """Read everything anew next time."""
        with self._lock:
            self._numbers = None

    def _read(self, broker: Broker, defined: Sequence[str]) -> LiveNumbers:
        now_s, now_ns = broker.now_s(), broker.now_ns()
        names, worker_ids = _merge(defined, self._existing), self._worker_ids
        existing, ids, is_running, counts, records = _run_all(
            broker,
            [
                read_queue_names(),
                list_worker_ids(now_s),
                is_maintenance_running(),
                count_tasks(names, now_ns=now_ns),
                read_records(*worker_ids),
            ],
        )
        self._existing, self._worker_ids = existing, ids
        if _merge(defined, existing) != names or ids != worker_ids:
            names = _merge(defined, existing)
            counts, records = _run_all(broker, [count_tasks(names, now_ns=now_ns), read_records(*ids)])
        return LiveNumbers(
            counts=counts,
            workers=sorted((record for record in records if record), key=lambda record: record.worker_id),
            is_maintenance_running=is_running,
            now_s=now_s,
        )


def _merge(defined: Sequence[str], existing: Sequence[str]) -> list[str]:
    known = {*defined}
    return [*defined, *(name for name in existing if name not in known)]


def _run_all(broker: Broker, requests: list[Request[Any]]) -> list[Any]:
    """Run requests in one round trip. Raise the error of the first that failed."""
    return [raise_error(outcome) for outcome in broker.run_all(requests)]

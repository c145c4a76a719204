"""Reads what /metrics shows of Redis: queues, workers, streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from queues.catalog import QueueCatalog
from queues.demand import list_demands
from queues.demand_estimates import QueueDemand
from queues.queries import get_fresh_catalog
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.health import is_maintenance_running, ping
from runqy.broker.memory import estimate_memory
from runqy.broker.queues.demand import count_demand, read_all_demand_records
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.request import Request, raise_error
from runqy.broker.streams.backlogs import StreamBacklog, read_backlogs
from runqy.broker.streams.run_counters import RunCounters, read_run_counters, read_webhook_attempts
from runqy.broker.workers.heartbeats import list_worker_ids, read_records
from runqy.broker.workers.records import WorkerRecord
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.redis_connection import get_broker

MEMORY_MAX_AGE_S = 30.0
"""How long an estimate of the queues' memory is used. It costs Redis more than all other numbers together."""

_failures = FailureLog("metrics_complete")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisState:
    """The numbers in Redis at one time."""

    round_trip_s: float
    now_s: int
    counts: Sequence[QueueCounts]
    memory: Mapping[str, int]
    runs: Mapping[str, RunCounters]
    """By Redis queue."""
    workers: Sequence[WorkerRecord]
    backlogs: Sequence[StreamBacklog]
    webhook_attempts: Mapping[str, int]
    """By outcome."""
    is_maintenance_running: bool
    demands: Sequence[QueueDemand]


class _MemoryEstimates:
    def __init__(self) -> None:
        self._estimated_s = float("-inf")
        self._bytes: dict[str, int] = {}

    def request(self, queues: Sequence[str]) -> Request[list[int]] | None:
        """Return the request for new estimates; None while the last ones are recent."""
        is_recent = clock.monotonic_s() - self._estimated_s < MEMORY_MAX_AGE_S and {*queues} <= self._bytes.keys()
        return None if is_recent else estimate_memory(queues)

    def record(self, queues: Sequence[str], sizes: Sequence[int]) -> None:
        self._estimated_s, self._bytes = clock.monotonic_s(), dict(zip(queues, sizes, strict=True))

    def of(self, queues: Sequence[str]) -> dict[str, int]:
        return {queue: self._bytes.get(queue, 0) for queue in queues}


_memory = _MemoryEstimates()


def find_catalog() -> QueueCatalog | None:
    """Return the defined queues; None while the configuration is unavailable."""
    try:
        return get_fresh_catalog()
    except ConfigurationUnavailable as error:
        _failures.record("metrics_incomplete", key=error.code, error=str(error))
        return None


def find_redis_state(catalog: QueueCatalog | None) -> RedisState | None:
    """Return the numbers of queues and of all workers; None while Redis is unavailable."""
    try:
        state = _read(get_broker(), catalog)
    except BrokerUnavailable as error:
        _failures.record("metrics_incomplete", key=error.code, error=str(error))
        return None
    _failures.record_success()
    return state


def _read(broker: Broker, catalog: QueueCatalog | None) -> RedisState:
    """Read everything in one round trip, and the workers' records in a second one. A PING before is what is
    measured.
    """
    queues = catalog.redis_queues() if catalog else []
    began_s = clock.monotonic_s()
    broker.run(ping())
    round_trip_s = clock.monotonic_s() - began_s
    now_ns = broker.now_ns()
    memory = _memory.request(queues)
    requests: list[Request[Any]] = [
        count_tasks(queues, now_ns=now_ns),
        read_run_counters(queues),
        read_backlogs(queues, now_ns=now_ns),
        read_webhook_attempts(),
        is_maintenance_running(),
        list_worker_ids(now_ns // 1_000_000_000),
        count_demand(queues, now_ns=now_ns),
        read_all_demand_records(),
        *([memory] if memory else []),
    ]
    counts, runs, backlogs, webhook_attempts, has_maintenance, ids, demand_counts, demand_records, *sizes = map(
        raise_error, broker.run_all(requests)
    )
    if sizes:
        _memory.record(queues, sizes[0])
    workers = broker.run(read_records(*ids)) if any(ids) else []
    return RedisState(
        round_trip_s=round_trip_s,
        now_s=now_ns // 1_000_000_000,
        counts=counts,
        memory=_memory.of(queues),
        runs=dict(zip(queues, runs, strict=True)),
        workers=[record for record in workers if record],
        backlogs=backlogs,
        webhook_attempts=webhook_attempts,
        is_maintenance_running=has_maintenance,
        demands=list_demands(
            catalog, dict(zip(queues, demand_counts, strict=True)), demand_records, now_s=now_ns // 1_000_000_000
        )
        if catalog
        else [],
    )

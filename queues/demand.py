"""The demand of queues, for autoscalers: read it, and record what it is computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from queues.catalog import AllowedQueues, QueueCatalog
from queues.demand_estimates import (
    DEFAULT_TARGET_WAIT_S,
    SAMPLE_EVERY_S,
    WINDOW_S,
    QueueDemand,
    estimate_demand,
    find_start,
    mean_run_s_since,
    sample_counters,
)
from queues.queries import get_fresh_catalog, with_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.queues.demand import (
    NO_RECORD,
    DemandCounts,
    DemandRecord,
    DemandSample,
    count_demand,
    read_all_demand_records,
    read_demand_records,
    write_demand_records,
)
from runqy.broker.request import Request, raise_error
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.maintenance.failed_rows import RowFailures


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandTarget:
    """What is scaled: the workers of a queue, or of one of its sub-queues."""

    name: str
    redis_queues: tuple[str, ...]


def get_demand(
    broker: Broker, name: str, *, target_wait_s: float = DEFAULT_TARGET_WAIT_S, allowed_queues: AllowedQueues = None
) -> QueueDemand:
    """Return the demand of a queue with all its sub-queues, or of one sub-queue, in one round trip.

    Raise QueueNotFound, ConfigurationUnavailable, BrokerUnavailable.
    """
    target = with_fresh_catalog(lambda: _find_target(name, allowed_queues))
    now_ns = broker.now_ns()
    requests: list[Request[Any]] = [
        count_demand(target.redis_queues, now_ns=now_ns),
        read_demand_records([target.name]),
    ]
    counts, (record,) = map(raise_error, broker.run_all(requests))
    return estimate_demand(target.name, counts, record, now_s=now_ns // 1_000_000_000, target_wait_s=target_wait_s)


def list_demands(
    catalog: QueueCatalog, counts: Mapping[str, DemandCounts], records: Mapping[str, DemandRecord], *, now_s: int
) -> list[QueueDemand]:
    """Return the demand of each queue, given the counts of its Redis queues."""
    return [
        estimate_demand(
            queue.name,
            [counts[name] for name, _ in catalog.redis_queues_of(queue)],
            records.get(queue.name, NO_RECORD),
            now_s=now_s,
        )
        for queue in catalog.definitions
    ]


def record_demand(broker: Broker, failures: RowFailures) -> None:
    """Record the counters of all queues and sub-queues, and who serves them. Maintenance calls it.

    Raise ConfigurationUnavailable, BrokerUnavailable.
    """
    targets = _list_targets(get_fresh_catalog())
    names = sorted({name for target in targets for name in target.redis_queues})
    now_ns = broker.now_ns()
    now_s = now_ns // 1_000_000_000
    counts = dict(zip(names, broker.run(count_demand(names, now_ns=now_ns)), strict=True))
    stored = broker.run(read_all_demand_records())
    live = [each for each in list_worker_records(broker) if not each.is_stale(now_s) and not each.is_refused]
    changed: dict[str, bytes] = {}
    for target in targets:
        if failures.is_paused(target.name):
            continue
        with failures.isolate(target.name, name=f"of {target.name}", queue=target.name):
            before = stored.get(target.name, NO_RECORD)
            sample = sample_counters([counts[name] for name in target.redis_queues], now_s)
            serving = [each for each in live if not each.redis_queues.keys().isdisjoint(target.redis_queues)]
            if (record := _next_record(before, sample, serving)) != before:
                changed[target.name] = record.encode()
    removed = stored.keys() - {target.name for target in targets}
    if changed or removed:
        broker.run(write_demand_records(changed, removed=sorted(removed)))


def _next_record(record: DemandRecord, now: DemandSample, workers: Sequence[WorkerRecord]) -> DemandRecord:
    kept = [sample for sample in record.samples if now.at_s - WINDOW_S - SAMPLE_EVERY_S <= sample.at_s <= now.at_s]
    before = find_start(kept, now.at_s)
    if not kept or now.at_s - kept[-1].at_s >= SAMPLE_EVERY_S:
        kept.append(now)
    # A process has a record for each queue that it registered for; here each counts once.
    processes = {each.process: each for each in workers}
    slots = [each.concurrency for each in processes.values() if each.concurrency > 0]
    return DemandRecord(
        samples=tuple(kept),
        mean_run_s=mean_run_s_since(before, now, record),
        slots_per_worker=sum(slots) / len(slots) if slots else record.slots_per_worker,
        workers=len(processes),
        slots=sum(each.concurrency for each in processes.values() if each.state is WorkerState.READY),
        failed_workers=sum(each.state is WorkerState.START_FAILED for each in processes.values()),
    )


def _find_target(name: str, allowed_queues: AllowedQueues) -> DemandTarget:
    catalog = get_fresh_catalog()
    queue = catalog.find_queue(name)
    if queue is not None and (allowed_queues is None or queue.name in allowed_queues):
        return DemandTarget(name=queue.name, redis_queues=tuple(name for name, _ in catalog.redis_queues_of(queue)))
    redis_queue = catalog.resolve(name, allowed_queues=allowed_queues).redis_queue
    return DemandTarget(name=redis_queue, redis_queues=(redis_queue,))


def _list_targets(catalog: QueueCatalog) -> list[DemandTarget]:
    """Return each queue, and each Redis queue of a queue that has several."""
    targets = {name: DemandTarget(name=name, redis_queues=(name,)) for name in catalog.redis_queues()}
    for queue in catalog.definitions:
        names = tuple(name for name, _ in catalog.redis_queues_of(queue))
        targets[queue.name] = DemandTarget(name=queue.name, redis_queues=names)
    return list(targets.values())

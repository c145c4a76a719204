"""Estimate from counters how many workers a queue needs.

By Little's law, tasks that arrive at a rate and run for a time keep as many slots busy as the product of both. Arrivals
are what ended in the last five minutes plus what the queue grew by, so that nothing is counted while tasks are
enqueued; a retry that becomes pending arrives once more. Maintenance records the counters every half minute, and who
serves the queue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from runqy.broker.queues.demand import DemandCounts, DemandRecord, DemandSample

WINDOW_S = 300
SAMPLE_EVERY_S = 30
DEFAULT_TARGET_WAIT_S = 30.0
_SHORTEST_S = 5
"""A rate over less time would follow single tasks."""


class DemandReason(StrEnum):
    """Why tasks wait although they could run."""

    NO_WORKER = "no_worker"
    WORKERS_FAILED = "workers_failed"
    PAUSED = "paused"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDemand:
    """The demand of a queue, and what it is computed from."""

    queue: str
    pending: int
    active: int
    scheduled_due: int
    oldest_pending_s: float
    slots: int
    """Of the workers that are ready."""
    slots_per_worker: float | None
    workers: int
    arrival_per_s: float | None
    mean_run_s: float | None
    target_wait_s: float
    desired_workers: int
    reason: DemandReason

    @property
    def demand(self) -> int:
        return self.pending + self.active


def estimate_demand(
    queue: str,
    counts: Sequence[DemandCounts],
    record: DemandRecord,
    *,
    now_s: int,
    target_wait_s: float = DEFAULT_TARGET_WAIT_S,
) -> QueueDemand:
    now = sample_counters(counts, now_s)
    before = find_start(record.samples, now_s)
    arrival_per_s = None if before is None else _arrival_per_s(before, now)
    runnable = [each for each in counts if not each.is_paused]
    demand = QueueDemand(
        queue=queue,
        pending=sum(each.pending for each in counts),
        active=sum(each.active for each in counts),
        scheduled_due=sum(each.due for each in counts),
        oldest_pending_s=max((each.oldest_pending_s for each in counts), default=0.0),
        slots=record.slots,
        slots_per_worker=record.slots_per_worker,
        workers=record.workers,
        arrival_per_s=arrival_per_s,
        mean_run_s=mean_run_s_since(before, now, record),
        target_wait_s=target_wait_s,
        desired_workers=0,
        reason=DemandReason.NONE,
    )
    if not runnable:
        return replace(demand, reason=DemandReason.PAUSED)
    pending, active = sum(each.pending for each in runnable), sum(each.active for each in runnable)
    return replace(
        demand,
        desired_workers=_desired_workers(
            demand, pending=pending, active=active, is_in_use=_has_ended_any(record.samples, now)
        ),
        reason=_find_reason(record, demand),
    )


def _desired_workers(demand: QueueDemand, *, pending: int, active: int, is_in_use: bool) -> int:
    """Return how many workers keep up with the arrivals, and start what is pending within the wait that is accepted."""
    if pending + active == 0:
        # Between two short tasks a queue that keeps up is empty.
        return int(is_in_use)
    if demand.mean_run_s is None or not demand.slots_per_worker:
        return 1
    arrivals = (demand.arrival_per_s or 0.0) * demand.mean_run_s
    # What runs needs its slot until it ends. A slot starts wait / run of the pending tasks within the wait.
    backlog = active + pending * min(demand.mean_run_s / demand.target_wait_s, 1.0)
    # More slots than tasks would be idle: a burst of long tasks is no rate of arrivals.
    slots = min(max(arrivals, backlog), pending + active)
    return max(math.ceil(round(slots / demand.slots_per_worker, 6)), 1)


def _find_reason(record: DemandRecord, demand: QueueDemand) -> DemandReason:
    if demand.demand and not record.workers:
        return DemandReason.NO_WORKER
    if record.workers and record.failed_workers == record.workers:
        return DemandReason.WORKERS_FAILED
    return DemandReason.NONE


def sample_counters(counts: Sequence[DemandCounts], now_s: int) -> DemandSample:
    return DemandSample(
        at_s=now_s,
        tasks=sum(each.pending + each.active for each in counts),
        processed=sum(each.processed for each in counts),
        runs=sum(each.runs for each in counts),
        run_ms=sum(each.run_ms for each in counts),
    )


def find_start(samples: Sequence[DemandSample], now_s: int) -> DemandSample | None:
    """Return the oldest sample of the last five minutes."""
    youngest_s, oldest_s = now_s - _SHORTEST_S, now_s - WINDOW_S - SAMPLE_EVERY_S
    return next((sample for sample in samples if oldest_s <= sample.at_s <= youngest_s), None)


def _has_ended_any(samples: Sequence[DemandSample], now: DemandSample) -> bool:
    """Return whether a run ended since the last sample that is at least _SHORTEST_S old."""
    last = next((sample for sample in reversed(samples) if sample.at_s <= now.at_s - _SHORTEST_S), None)
    return last is not None and last.at_s > now.at_s - 2 * SAMPLE_EVERY_S and now.processed > last.processed


def _arrival_per_s(before: DemandSample, now: DemandSample) -> float:
    # Tasks that were deleted or cancelled while they waited make it too small, never negative.
    arrived = now.processed - before.processed + now.tasks - before.tasks
    return max(arrived, 0) / (now.at_s - before.at_s)


def mean_run_s_since(before: DemandSample | None, now: DemandSample, record: DemandRecord) -> float | None:
    """Return the mean duration of the runs since a sample; without one, or if the counters were reset, the last one."""
    if before is None or now.runs <= before.runs or now.run_ms < before.run_ms:
        return record.mean_run_s
    return (now.run_ms - before.run_ms) / (now.runs - before.runs) / 1000

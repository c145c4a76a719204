"""The metric families that /metrics builds from Redis: those of asynq's exporter, and runqy's own."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import Metric

from queues.catalog import QueueCatalog
from queues.demand_estimates import DemandReason, QueueDemand
from queues.queries import get_published_releases
from runqy.broker.queues.stats import QueueCounts
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_counters import BUCKETS_S, OutcomeCount, RunCount, RunCounters, RunTime
from runqy.broker.workers.records import WorkerState
from runqy.server.metrics.declarations import (
    BATCH_SIZE,
    CHILD_RESTARTS,
    DEMAND,
    DEMAND_ACTIVE,
    DEMAND_ARRIVALS,
    DEMAND_DUE,
    DEMAND_MEAN_RUN,
    DEMAND_OLDEST,
    DEMAND_PENDING,
    DEMAND_REASON,
    DEMAND_SLOTS,
    DEPLOYMENTS,
    DESIRED_WORKERS,
    ENDS_WAITING,
    FAILED,
    FIRST_ATTEMPTS,
    PAUSED,
    PROCESSED,
    QUEUE_LATENCY,
    QUEUE_MEMORY,
    QUEUE_SIZE,
    RELEASE,
    RUN_TIME,
    RUNS,
    RUNS_DROPPED,
    SHARED_DEATHS,
    SLOTS,
    SLOTS_BUSY,
    TASKS,
    TASKS_ENDED,
    WAIT_TIME,
    WORKERS,
)
from runqy.server.metrics.http_requests import OTHER
from runqy.server.metrics.state import RedisState

MAX_QUEUES = 500
"""The number of Redis queues that have a label of their own. The others are added up."""
MAX_SLOTS = 100_000
"""More than a worker has: its children may take 256 batches of 256 tasks."""
_STATES = (
    TaskState.ACTIVE,
    TaskState.PENDING,
    TaskState.SCHEDULED,
    TaskState.RETRY,
    TaskState.ARCHIVED,
    TaskState.COMPLETED,
)


def label_queues(names: Sequence[str]) -> dict[str, str]:
    """Return the label of each Redis queue: its name, or `other` beyond MAX_QUEUES."""
    return {name: name if number < MAX_QUEUES else OTHER for number, name in enumerate(names)}


def asynq_families(state: RedisState, labels: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the families of asynq's exporter under its names and labels, so that its dashboards work, and what else is
    counted with them.
    """
    grouped: dict[str, list[QueueCounts]] = defaultdict(list)
    for counts in state.counts:
        grouped[labels[counts.queue]].append(counts)
    enqueued, size, latency = TASKS.family(), QUEUE_SIZE.family(), QUEUE_LATENCY.family()
    memory, processed, failed, paused = QUEUE_MEMORY.family(), PROCESSED.family(), FAILED.family(), PAUSED.family()
    ends = ENDS_WAITING.family()
    for label, queues in grouped.items():
        for task_state in _STATES:
            enqueued.add_metric((label, task_state.value), sum(getattr(each, task_state.value) for each in queues))
        size.add_metric((label,), sum(each.size for each in queues))
        latency.add_metric((label,), max(each.latency_s for each in queues))
        memory.add_metric((label,), sum(state.memory[each.queue] for each in queues))
        processed.add_metric((label,), sum(each.processed for each in queues))
        failed.add_metric((label,), sum(each.failed for each in queues))
        paused.add_metric((label,), sum(each.is_paused for each in queues))
        ends.add_metric((label,), sum(each.ends for each in queues))
    yield from (enqueued, size, latency, memory, processed, failed, paused, ends)


def run_families(state: RedisState, labels: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the outcomes of runs, first attempts and tasks, their times, and how many the history lost."""
    grouped: dict[str, RunCounters] = defaultdict(RunCounters)
    for queue, counters in state.runs.items():
        grouped[labels[queue]].update(counters)
    outcomes, first_attempts, ended = RUNS.family(), FIRST_ATTEMPTS.family(), TASKS_ENDED.family()
    waits, runs, dropped = WAIT_TIME.family(), RUN_TIME.family(), RUNS_DROPPED.family()
    for label, counters in grouped.items():
        for family, counted in (
            (outcomes, OutcomeCount.ALL),
            (first_attempts, OutcomeCount.FIRST),
            (ended, OutcomeCount.ENDED),
        ):
            for outcome, number in counters.by_outcome(counted).items():
                if family is not ended or outcome is not RunOutcome.RETRIED:
                    family.add_metric((label, outcome.value), number)
        outcomes.add_metric((label, "requeued"), counters[RunCount.REQUEUED])
        for histogram, time in ((waits, RunTime.WAIT), (runs, RunTime.RUN)):
            histogram.add_metric((label,), _cumulated(counters.by_bucket(time)), counters[f"{time}_ms"] / 1000)
        dropped.add_metric((label,), counters[RunCount.DROPPED])
    yield from (outcomes, first_attempts, ended, waits, runs, dropped)


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus expects them: each includes all smaller ones."""
    return [*zip((*map(str, BUCKETS_S), "+Inf"), accumulate(map(float, counts)), strict=True)]


def worker_families(state: RedisState, catalog: QueueCatalog, labels: Mapping[str, str]) -> Iterator[Metric]:
    """Yield workers by Redis queue and state, and slots, batches, child restarts and deployments by queue.

    Workers write their records themselves: unknown queues are left out, and numbers are limited.
    """
    present: Counter[tuple[str, WorkerState]] = Counter()
    slots: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    own = {
        definition.name: OTHER if n >= MAX_QUEUES else definition.name
        for n, definition in enumerate(catalog.definitions)
    }
    for record in state.workers:
        worker_state = WorkerState.DISCONNECTED if record.is_stale(state.now_s) else record.state
        for label in {labels[queue] for queue in record.redis_queues if queue in labels}:
            present[label, worker_state] += 1
        if record.queue in own and worker_state is not WorkerState.DISCONNECTED:
            slots[own[record.queue]] += _limited(record.concurrency)
            busy[own[record.queue]] += _limited(len(record.running), record.concurrency)
    workers = WORKERS.family()
    for label in dict.fromkeys(labels.values()):
        for worker_state in WorkerState:
            workers.add_metric((label, worker_state.value), present[label, worker_state])
    total, used, batches = SLOTS.family(), SLOTS_BUSY.family(), BATCH_SIZE.family()
    restarts, shared, deployments = CHILD_RESTARTS.family(), SHARED_DEATHS.family(), DEPLOYMENTS.family()
    by_queue: dict[str, RunCounters] = {label: RunCounters() for label in own.values()}
    for queue, counters in state.runs.items():
        resolved = catalog.find(queue)
        if resolved is not None:
            by_queue[own[resolved.queue.name]].update(counters)
    for label, counters in by_queue.items():
        total.add_metric((label,), slots[label])
        used.add_metric((label,), busy[label])
        batches.add_metric((label,), counters[RunCount.BATCHES], counters[RunCount.BATCH_TASKS])
        restarts.add_metric((label,), counters[RunCount.CHILD_RESTARTS])
        shared.add_metric((label,), counters[RunCount.SHARED_DEATHS])
        deployments.add_metric((label, "succeeded"), counters[RunCount.DEPLOYMENTS])
        deployments.add_metric((label, "failed"), counters[RunCount.FAILED_DEPLOYMENTS])
    yield from (workers, total, used, batches, restarts, shared, deployments)


def _limited(number: int, highest: int = MAX_SLOTS) -> int:
    """Return a number from a worker's record, within the bounds of what a worker can have."""
    return min(max(number, 0), highest, MAX_SLOTS)


def demand_families(demands: Sequence[QueueDemand]) -> Iterator[Metric]:
    """Yield the demand of each of the first MAX_QUEUES queues: those of several cannot be added up."""
    shown = demands[:MAX_QUEUES]
    yield DEMAND.family({each.queue: float(each.demand) for each in shown})
    yield DEMAND_PENDING.family({each.queue: float(each.pending) for each in shown})
    yield DEMAND_ACTIVE.family({each.queue: float(each.active) for each in shown})
    yield DEMAND_DUE.family({each.queue: float(each.scheduled_due) for each in shown})
    yield DEMAND_OLDEST.family({each.queue: each.oldest_pending_s for each in shown})
    yield DEMAND_SLOTS.family({each.queue: float(each.slots) for each in shown})
    yield DEMAND_ARRIVALS.family({e.queue: e.arrival_per_s for e in shown if e.arrival_per_s is not None})
    yield DEMAND_MEAN_RUN.family({e.queue: e.mean_run_s for e in shown if e.mean_run_s is not None})
    yield DESIRED_WORKERS.family({each.queue: float(each.desired_workers) for each in shown})
    reasons = DEMAND_REASON.family()
    for each in shown:
        for reason in DemandReason:
            reasons.add_metric([each.queue, reason], float(each.reason is reason))
    yield reasons


def release_family(catalog: QueueCatalog) -> Metric:
    """Return the releases of each of the first MAX_QUEUES queues."""
    family = RELEASE.family()
    for queue in catalog.definitions[:MAX_QUEUES]:
        published = get_published_releases(queue.name)
        for state, release in (("live", published.live), ("rolling_out", published.candidate)):
            family.add_metric([queue.name, state], release.number if release else 0)
    return family

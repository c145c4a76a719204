"""The metric families that /metrics builds from Redis: those of asynq's exporter, and runqy's own."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from queues.catalog import QueueCatalog
from runqy.broker.queues.stats import QueueCounts
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_counters import BUCKETS_S, Histogram, RunCounters
from runqy.broker.workers.records import WorkerState
from runqy.metrics.http_requests import OTHER
from runqy.metrics.state import RedisState

MAX_QUEUES = 500
"""The number of Redis queues that have a label of their own. The others are added up."""
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
    """Yield the families of asynq's exporter under its names and labels, so that its dashboards work."""
    grouped: dict[str, list[QueueCounts]] = defaultdict(list)
    for counts in state.counts:
        grouped[labels[counts.queue]].append(counts)
    # A gauge that ends in _total is against Prometheus's conventions, but existing dashboards read this name.
    enqueued = GaugeMetricFamily("asynq_tasks_enqueued_total", "Number of tasks by state.", labels=("queue", "state"))
    size = GaugeMetricFamily("asynq_queue_size", "Number of tasks in a queue.", labels=("queue",))
    latency = GaugeMetricFamily(
        "asynq_queue_latency_seconds", "How long the oldest pending task has waited.", labels=("queue",)
    )
    memory = GaugeMetricFamily(
        "asynq_queue_memory_usage_approx_bytes",
        "Memory that a queue uses in Redis, estimated from samples every half minute.",
        labels=("queue",),
    )
    processed = CounterMetricFamily("asynq_tasks_processed", "Attempts that ended, failed or not.", labels=("queue",))
    failed = CounterMetricFamily("asynq_tasks_failed", "Attempts that failed.", labels=("queue",))
    paused = GaugeMetricFamily("asynq_queue_paused_total", "1 while a queue is paused.", labels=("queue",))
    for label, queues in grouped.items():
        for task_state in _STATES:
            enqueued.add_metric((label, task_state.value), sum(getattr(each, task_state.value) for each in queues))
        size.add_metric((label,), sum(each.size for each in queues))
        latency.add_metric((label,), max(each.latency_s for each in queues))
        memory.add_metric((label,), sum(state.memory[each.queue] for each in queues))
        processed.add_metric((label,), sum(each.processed for each in queues))
        failed.add_metric((label,), sum(each.failed for each in queues))
        paused.add_metric((label,), sum(each.is_paused for each in queues))
    yield from (enqueued, size, latency, memory, processed, failed, paused)


def run_families(state: RedisState, labels: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the outcomes and times of runs, and the number of those that the history lost."""
    grouped: dict[str, RunCounters] = defaultdict(RunCounters)
    for queue, counters in state.runs.items():
        grouped[labels[queue]].add(counters)
    outcomes = CounterMetricFamily(
        "runqy_task_runs",
        "Ended attempts by outcome. `expired`, and `canceled` before the start: tasks that ended without one.",
        labels=("queue", "outcome"),
    )
    waits = HistogramMetricFamily(
        "runqy_task_wait_seconds", "Time that tasks were pending until a run began.", labels=("queue",)
    )
    runs = HistogramMetricFamily("runqy_task_run_seconds", "Time that runs took.", labels=("queue",))
    dropped = CounterMetricFamily(
        "runqy_history_runs_dropped",
        "Ended attempts that the history lost, because a queue's stream in Redis was full.",
        labels=("queue",),
    )
    for label, counters in grouped.items():
        for outcome in RunOutcome:
            outcomes.add_metric((label, outcome.value), counters.outcomes[outcome])
        outcomes.add_metric((label, "requeued"), counters.requeued)
        waits.add_metric((label,), _cumulated(counters.waits), counters.waits.sum_ms / 1000)
        runs.add_metric((label,), _cumulated(counters.runs), counters.runs.sum_ms / 1000)
        dropped.add_metric((label,), counters.dropped)
    yield from (outcomes, waits, runs, dropped)


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus expects them: each includes all smaller ones."""
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def worker_families(state: RedisState, catalog: QueueCatalog, labels: Mapping[str, str]) -> Iterator[Metric]:
    """Yield workers by Redis queue and state, and slots, child restarts and deployments by queue.

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
    workers = GaugeMetricFamily(
        "runqy_workers",
        "Workers that serve a queue, by state; one that serves several sub-queues counts in each.",
        labels=("queue", "state"),
    )
    for label in dict.fromkeys(labels.values()):
        for worker_state in WorkerState:
            workers.add_metric((label, worker_state.value), present[label, worker_state])
    total = GaugeMetricFamily(
        "runqy_worker_slots", "Tasks that the workers of a queue can run at once.", labels=("queue",)
    )
    used = GaugeMetricFamily("runqy_worker_slots_busy", "Tasks that the workers of a queue run.", labels=("queue",))
    restarts = CounterMetricFamily(
        "runqy_worker_child_restarts", "Child processes that ended unexpectedly or did not start.", labels=("queue",)
    )
    deployments = CounterMetricFamily(
        "runqy_worker_deployments", "Deployments of a queue's code on a worker.", labels=("queue", "outcome")
    )
    by_queue: dict[str, RunCounters] = {label: RunCounters() for label in own.values()}
    for queue, counters in state.runs.items():
        resolved = catalog.find(queue)
        if resolved is not None:
            by_queue[own[resolved.queue.name]].add(counters)
    for label, counters in by_queue.items():
        total.add_metric((label,), slots[label])
        used.add_metric((label,), busy[label])
        restarts.add_metric((label,), counters.child_restarts)
        deployments.add_metric((label, "succeeded"), counters.deployments)
        deployments.add_metric((label, "failed"), counters.failed_deployments)
    yield from (workers, total, used, restarts, deployments)


def _limited(number: int, highest: int = 1000) -> int:
    """Return a number from a worker's record, within the bounds of what a worker can have."""
    return min(max(number, 0), highest, 1000)


def gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def labelled_gauge(name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=(label,))
    for text, value in values:
        family.add_metric((text,), value)
    return family

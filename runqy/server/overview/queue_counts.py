"""The tasks and workers of each queue, and of all queues, for the overview."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from queues.catalog import QueueCatalog
from runqy.admin_site.labels import changelist_url
from runqy.admin_site.page_cache import get_or_read
from runqy.broker.broker import Broker
from runqy.broker.health import is_maintenance_running
from runqy.broker.queues.stats import QueueCounts, count_tasks, read_queue_names
from runqy.broker.request import Request, raise_error
from runqy.broker.states import TaskState
from runqy.broker.workers.heartbeats import list_worker_ids, read_records
from runqy.broker.workers.records import NO_WORKERS, WorkerCounts, WorkerRecord, count_workers
from tasks.history.recent import RecentHistory

MAX_AGE_S = 1.0
MAX_BUSIEST = 8

STATES = (TaskState.PENDING, TaskState.ACTIVE, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED)
"""The states that the page counts."""
_QUEUE_STATES = (TaskState.PENDING, TaskState.ACTIVE, TaskState.RETRY, TaskState.ARCHIVED)
"""The states that the page counts for each queue."""


@dataclass(slots=True, kw_only=True)
class QueueSummary:
    """A queue with its tasks, including those of its sub-queues."""

    name: str
    is_enabled: bool
    is_paused: bool = False
    pending: int = 0
    active: int = 0
    retry: int = 0
    archived: int = 0
    workers: WorkerCounts = NO_WORKERS
    trend: str = ""
    """How the number of pending tasks changes."""

    def add(self, counts: QueueCounts) -> None:
        self.pending += counts.pending
        self.active += counts.active
        self.retry += counts.retry
        self.archived += counts.archived
        self.is_paused = self.is_paused or counts.is_paused

    @property
    def is_idle(self) -> bool:
        return not any(getattr(self, state) for state in _QUEUE_STATES)

    @property
    def url(self) -> str:
        return changelist_url("tasks_task", parent=self.name)

    @property
    def numbers(self) -> list[tuple[str, int, str]]:
        return [
            (
                state.value.capitalize(),
                getattr(self, state),
                changelist_url("tasks_task", parent=self.name, state=state),
            )
            for state in _QUEUE_STATES
        ]

    @property
    def workers_url(self) -> str:
        return changelist_url("workers_worker", queue=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewCounts:
    """The tasks and workers of all queues."""

    queues: Sequence[QueueSummary] = ()
    """The queues with a definition."""
    totals: Mapping[TaskState, int]
    """The tasks of all Redis queues, including those without a definition."""
    undefined: Sequence[QueueCounts] = ()
    """Redis queues with waiting tasks but without a definition."""
    workers: WorkerCounts = NO_WORKERS
    is_maintenance_running: bool = True

    def list_busiest(self, recent: RecentHistory) -> list[QueueSummary]:
        """Return the queues with most pending, active and retry tasks, with their trends."""
        by_tasks = sorted(self.queues, key=lambda queue: (-queue.pending - queue.active - queue.retry, queue.name))
        return [
            replace(queue, trend=recent.describe_trend(queue.name, queue.pending)) for queue in by_tasks[:MAX_BUSIEST]
        ]


def read_counts(broker: Broker, catalog: QueueCatalog, *, is_fresh: bool) -> OverviewCounts:
    """Return the counts, at most MAX_AGE_S old, or read now if `is_fresh`. Raise BrokerUnavailable."""
    return get_or_read(
        "overview:counts",
        OverviewCounts,
        lambda: _read_counts(broker, catalog),
        max_age_s=MAX_AGE_S,
        is_fresh=is_fresh,
    )


def _read_counts(broker: Broker, catalog: QueueCatalog) -> OverviewCounts:
    """Read the tasks of all Redis queues and all workers, in two round trips."""
    now_s, now_ns = broker.now_s(), broker.now_ns()
    existing, ids, is_running = _run_all(broker, read_queue_names(), list_worker_ids(now_s), is_maintenance_running())
    names = {name: queue.name for queue in catalog.definitions for name, _ in catalog.redis_queues_of(queue)}
    redis_queues = [*dict.fromkeys([*names, *existing])]
    found, records = _run_all(broker, count_tasks(redis_queues, now_ns=now_ns), read_records(*ids))
    workers = [record for record in records if record]
    queues = {queue.name: QueueSummary(name=queue.name, is_enabled=queue.is_enabled) for queue in catalog.definitions}
    totals = dict.fromkeys(STATES, 0)
    undefined = []
    for counts in found:
        for state in STATES:
            totals[state] += getattr(counts, state)
        if summary := queues.get(names.get(counts.queue, "")):
            summary.add(counts)
        elif counts.waiting:
            undefined.append(counts)
    _count_workers(queues, workers, names, now_s=now_s)
    return OverviewCounts(
        queues=list(queues.values()),
        totals=totals,
        undefined=undefined,
        workers=count_workers(workers, now_s=now_s),
        is_maintenance_running=is_running,
    )


def _run_all(broker: Broker, *requests: Request[Any]) -> list[Any]:
    return [raise_error(outcome) for outcome in broker.run_all(requests)]


def _count_workers(
    queues: dict[str, QueueSummary], workers: Sequence[WorkerRecord], names: dict[str, str], *, now_s: int
) -> None:
    serving: dict[str, list[WorkerRecord]] = {name: [] for name in queues}
    for worker in workers:
        for queue in {names[name] for name in worker.redis_queues if name in names}.intersection(queues):
            serving[queue].append(worker)
    for name, summary in queues.items():
        summary.workers = count_workers(serving[name], now_s=now_s)

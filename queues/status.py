"""The status of queues and Redis queues: tasks, workers, publication and vault errors."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, InterfaceError

from queues.catalog import AllowedQueues, QueueCatalog, RedisQueue
from queues.definitions import QueueBase
from queues.health import (
    BEING_DELETED,
    NO_ACTIVITY,
    NO_COUNTS,
    NOT_PUBLISHED,
    NOT_WATCHED,
    UNDEFINED,
    VAULT_PROBLEM,
    Health,
    HealthLevel,
    QueueActivity,
    QueueProblem,
    list_health,
    read_activity,
)
from queues.queries import documents_used, get_fresh_catalog, list_redis_queues, list_vault_errors, resolve_redis_queue
from runqy.broker.broker import Broker
from runqy.broker.health import is_maintenance_running
from runqy.broker.memory import estimate_memory
from runqy.broker.queues.pausing import Pause, find_pause
from runqy.broker.queues.stats import DayCounts, QueueCounts, count_tasks, read_history
from runqy.broker.request import Request, raise_error
from runqy.broker.states import TaskState
from runqy.broker.workers.heartbeats import (
    list_live_and_lost_ids,
    list_worker_records,
    read_live_and_lost_records,
)
from runqy.broker.workers.records import NO_WORKERS, WorkerCounts, WorkerRecord, count_workers
from runqy.configuration.documents import DocumentKind, field
from runqy.configuration.publishing import SyncStatus
from runqy.errors import BrokerUnavailable

UNTOLD_WARNING = "Ends of tasks in the queue {} that Go's workers run are not told: its redis_storage is false."
HISTORY_DAYS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """How busy the workers of a queue are, by their last heartbeats."""

    slots: int
    """Tasks that they can run at once."""
    running: float
    """How many they ran at a time, as the mean over the last minutes."""
    processes: int
    """Their child processes."""
    mean_batch: float
    """The mean size of the batches of the last minutes; 0 if there were none."""
    shared_deaths: int
    """How many of the processes died in the last minutes while they ran several tasks."""
    shared_death_tasks: int
    """The smallest number of tasks that one of them ran."""

    @property
    def percent(self) -> float:
        return 100 * self.running / self.slots if self.slots > 0 else 0.0

    @property
    def tasks_at_a_time(self) -> float:
        """How many tasks a process ran at a time."""
        return self.running / self.processes if self.processes > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The status of a queue."""

    counts: tuple[QueueCounts, ...] | None
    """The counts of each of its Redis queues; None while Redis is unavailable."""
    workers: tuple[WorkerRecord, ...] = ()
    """The live workers that serve it."""
    worker_counts: WorkerCounts = NO_WORKERS
    """The processes of these workers."""
    silent_workers: tuple[WorkerRecord, ...] = ()
    """Those that fell silent within a day without deregistering."""
    is_published: bool | None
    """Whether Redis and the database agree on it and its vaults; None while Redis is unavailable."""
    vault_errors: tuple[str, ...] = ()
    """Why workers cannot register for it."""
    is_told: bool = False
    """Whether webhooks may be told of its tasks."""
    activity: QueueActivity = NO_ACTIVITY
    is_watched: bool = True
    """Whether maintenance, which looks for problems, runs."""

    @property
    def has_foreign_workers(self) -> bool:
        return any(worker.is_foreign for worker in self.workers)

    @property
    def tasks(self) -> dict[str, int]:
        """The number of tasks by state."""
        return sum_tasks(self.counts or ())

    @property
    def load(self) -> "QueueLoad":
        own = [worker for worker in self.workers if not worker.is_foreign]
        batches = [worker.mean_batch for worker in own if worker.mean_batch > 0]
        dying = [worker for worker in own if worker.shared_deaths > 0]
        return QueueLoad(
            slots=sum(worker.concurrency for worker in own),
            running=sum(worker.mean_running for worker in own),
            processes=sum(worker.processes for worker in own),
            mean_batch=sum(batches) / len(batches) if batches else 0.0,
            shared_deaths=sum(worker.shared_deaths for worker in dying),
            shared_death_tasks=min((worker.shared_death_tasks for worker in dying), default=0),
        )

    @property
    def slots(self) -> int:
        """The tasks that its workers can run at once."""
        return sum(worker.concurrency for worker in self.workers)

    @property
    def oldest_s(self) -> float:
        """How long the oldest pending task has been waiting."""
        return max((each.latency_s for each in self.counts or ()), default=0.0)

    @property
    def trend(self) -> str:
        """How the number of pending tasks changes: `grows 12/min`; empty if that is unknown."""
        return self.activity.describe_trend(self.tasks[TaskState.PENDING])

    def list_health(self, *, is_enabled: bool, is_being_deleted: bool = False) -> list[Health]:
        """Return what differs from a working queue, the most urgent first."""
        others = [BEING_DELETED] if is_being_deleted else []
        if self.vault_errors:
            others.append(Health(text=VAULT_PROBLEM, level=HealthLevel.CRITICAL, detail=" ".join(self.vault_errors)))
        if self.is_published is False:
            others.append(NOT_PUBLISHED)
        if self.counts is None:
            others.append(NO_COUNTS)
        elif not self.is_watched:
            others.append(NOT_WATCHED)
        paused = ("paused" if self.is_wholly_paused else "partly paused") if self.is_paused else ""
        return list_health(self.activity.problems, is_enabled=is_enabled, paused=paused, others=others)

    @property
    def is_paused(self) -> bool:
        return any(each.is_paused for each in self.counts or ())

    @property
    def is_wholly_paused(self) -> bool:
        return bool(self.counts) and all(each.is_paused for each in self.counts or ())


def sum_tasks(counts: Iterable[QueueCounts]) -> dict[str, int]:
    """Return the number of tasks of Redis queues by state."""
    queues = list(counts)
    return {state.value: sum(getattr(queue, state.value) for queue in queues) for state in TaskState}


def get_queue_statuses(
    broker: Broker, specs: Sequence[QueueBase], comparison: SyncStatus | None
) -> dict[str, QueueStatus]:
    """Return the status of queues by name, in a constant number of queries and round trips."""
    catalog = get_fresh_catalog()
    redis_queues = {spec.name: [name for name, _ in catalog.redis_queues_of(spec)] for spec in specs}
    vault_errors, activity = list_vault_errors(redis_queues), read_activity(redis_queues)
    state = _read_state(broker, [name for names in redis_queues.values() for name in names])
    workers: dict[str, list[WorkerRecord]] = defaultdict(list)
    for record in state.workers:
        for name in record.redis_queues:
            workers[name].append(record)
    now_s, serving, silent = broker.now_s(), {}, {}
    for queue, names in redis_queues.items():
        found = _serving(workers, names)
        serving[queue] = tuple(record for record in found if not record.is_stale(now_s))
        silent[queue] = tuple(record for record in found if record.is_stale(now_s))
    return {
        spec.name: QueueStatus(
            counts=tuple(state.counts[name] for name in redis_queues[spec.name]) if state.counts is not None else None,
            workers=serving[spec.name],
            worker_counts=count_workers(serving[spec.name], now_s=now_s),
            silent_workers=silent[spec.name],
            is_published=_is_published(spec, comparison),
            vault_errors=tuple(vault_errors[spec.name]),
            is_told=bool(spec.webhook_hosts) or _has_endpoints(spec.name, catalog),
            activity=activity.get(spec.name, NO_ACTIVITY),
            is_watched=state.is_maintenance_running,
        )
        for spec in specs
    }


def _has_endpoints(name: str, catalog: QueueCatalog) -> bool:
    queue = catalog.find_queue(name)
    return queue is not None and queue.notify.endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What Redis knows of queues."""

    counts: Mapping[str, QueueCounts] | None = None
    """By Redis queue; None while Redis is unavailable."""
    workers: Sequence[WorkerRecord] = ()
    """Also lost ones."""
    is_maintenance_running: bool = True


def _read_state(broker: Broker, names: Sequence[str]) -> _State:
    """Return the counts of Redis queues and the workers, in two round trips: which workers there are says the first."""
    first: Sequence[Request[Any]] = (
        count_tasks(names, now_ns=broker.now_ns()),
        is_maintenance_running(),
        list_live_and_lost_ids(broker.now_s()),
    )
    try:
        counts, is_running, listed = map(raise_error, broker.run_all(first))
        live, lost = broker.run(read_live_and_lost_records(listed))
    except BrokerUnavailable:
        return _State()
    return _State(
        counts={count.queue: count for count in counts},
        workers=(*live, *lost),
        is_maintenance_running=is_running,
    )


def _serving(workers: dict[str, list[WorkerRecord]], names: Sequence[str]) -> tuple[WorkerRecord, ...]:
    """Return the workers that serve any of these Redis queues, each once, ordered by id."""
    found = {record.worker_id: record for name in names for record in workers.get(name, ())}
    return tuple(found[worker_id] for worker_id in sorted(found))


def _is_published(spec: QueueBase, comparison: SyncStatus | None) -> bool | None:
    if comparison is None:
        return None
    fields = {field(DocumentKind.QUEUE, spec.name), *documents_used(spec)}
    differing = {*comparison.outdated, *comparison.altered, *comparison.ahead}
    return fields.isdisjoint(differing) and spec.name not in {each.queue for each in comparison.queues}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisQueueStatus:
    redis_queue: RedisQueue
    counts: QueueCounts
    memory_bytes: int
    """Estimated from a sample."""
    worker_counts: WorkerCounts
    """The worker processes that serve it."""
    problems: tuple[QueueProblem, ...]
    """Those of its queue."""
    is_watched: bool
    """Whether maintenance, which looks for problems, runs, and the database, which has them, is available."""

    @property
    def health(self) -> list[str]:
        """What differs from a working queue, the most urgent first."""
        others = ([] if self.redis_queue.is_defined else [UNDEFINED]) + ([] if self.is_watched else [NOT_WATCHED])
        is_enabled = self.redis_queue.is_enabled or not self.redis_queue.is_defined
        paused = "paused" if self.counts.is_paused else ""
        return [each.text for each in list_health(self.problems, is_enabled=is_enabled, paused=paused, others=others)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisQueueDetail(RedisQueueStatus):
    """A Redis queue with its pause, history and workers."""

    pause: Pause | None
    """None if it is not paused."""
    history: list[DayCounts]
    """Today first."""
    workers: list[str]
    """The ids of the workers that serve it."""


def list_redis_queue_statuses(broker: Broker, *, allowed_queues: AllowedQueues = None) -> list[RedisQueueStatus]:
    """Return the status of all Redis queues, in five round trips. Raise BrokerUnavailable."""
    redis_queues = list_redis_queues(broker, allowed_queues=allowed_queues)
    return _statuses(broker, redis_queues, list_worker_records(broker)) if redis_queues else []


def get_redis_queue_detail(broker: Broker, name: str, *, allowed_queues: AllowedQueues = None) -> RedisQueueDetail:
    """Return the status of the Redis queue that a name means. Raise QueueNotFound, BrokerUnavailable."""
    redis_queue = resolve_redis_queue(broker, name, allowed_queues=allowed_queues)
    queue = redis_queue.redis_queue
    workers = list_worker_records(broker)
    status = _statuses(broker, [redis_queue], workers)[0]
    return RedisQueueDetail(
        redis_queue=redis_queue,
        counts=status.counts,
        memory_bytes=status.memory_bytes,
        worker_counts=status.worker_counts,
        problems=status.problems,
        is_watched=status.is_watched,
        pause=broker.run(find_pause(queue)),
        history=broker.run(read_history(queue, days=HISTORY_DAYS, now_ns=broker.now_ns())),
        workers=sorted(record.worker_id for record in workers if queue in record.redis_queues),
    )


def find_unserved(broker: Broker, queues: Iterable[str]) -> list[str] | None:
    """Return the Redis queues of enabled queues that no live worker serves; None while Redis is unavailable."""
    live = _find_live_workers(broker)
    if live is None:
        return None
    served = {name for record in live for name in record.redis_queues}
    catalog = get_fresh_catalog(max_age_s=0)
    enabled = [queue for queue in map(catalog.find_queue, queues) if queue is not None and queue.is_enabled]
    return [name for queue in enabled for name, _ in catalog.redis_queues_of(queue) if name not in served]


def list_untold_warnings(broker: Broker, queues: Collection[str] = ()) -> list[str]:
    """Return warnings about those of these queues, or of all, whose tasks may end without anybody being told."""
    catalog = get_fresh_catalog()
    definitions = [found for name in queues if (found := catalog.find_queue(name))] if queues else catalog.definitions
    # Go's worker deletes such a task at its end, so that nothing is left to be found.
    deleted = [queue for queue in definitions if not queue.deployment.redis_storage]
    live = (_find_live_workers(broker) or ()) if deleted else ()
    served = {name for record in live if record.is_foreign for name in record.redis_queues}
    return [
        UNTOLD_WARNING.format(queue.name)
        for queue in deleted
        if any(name in served for name, _ in catalog.redis_queues_of(queue))
    ]


def find_deploying_workers(broker: Broker, queue: str) -> list[str] | None:
    """Return the ids of a queue's live workers; None while Redis is unavailable.

    Those of the Go release are left out: they do not redeploy.
    """
    live = _find_live_workers(broker)
    if live is None:
        return None
    return sorted(record.worker_id for record in live if record.queue == queue and not record.is_foreign)


def _find_live_workers(broker: Broker) -> list[WorkerRecord] | None:
    try:
        records = list_worker_records(broker)
    except BrokerUnavailable:
        return None
    now_s = broker.now_s()
    return [record for record in records if not record.is_stale(now_s)]


def _statuses(broker: Broker, redis_queues: list[RedisQueue], workers: list[WorkerRecord]) -> list[RedisQueueStatus]:
    names = [redis_queue.redis_queue for redis_queue in redis_queues]
    first: Sequence[Request[Any]] = (count_tasks(names, now_ns=broker.now_ns()), is_maintenance_running())
    counts, is_running = map(raise_error, broker.run_all(first))
    sizes = broker.run(estimate_memory(names))
    activity = _find_activity({redis_queue.queue.name for redis_queue in redis_queues if redis_queue.queue})
    serving: dict[str, list[WorkerRecord]] = defaultdict(list)
    for record in workers:
        for name in record.redis_queues:
            serving[name].append(record)
    now_s = broker.now_s()
    return [
        RedisQueueStatus(
            redis_queue=redis_queue,
            counts=count,
            memory_bytes=size,
            worker_counts=count_workers(serving.get(redis_queue.redis_queue, ()), now_s=now_s),
            problems=(activity or {}).get(redis_queue.queue.name, NO_ACTIVITY).problems if redis_queue.queue else (),
            is_watched=is_running and activity is not None,
        )
        for redis_queue, count, size in zip(redis_queues, counts, sizes, strict=True)
    ]


def _find_activity(queues: Collection[str]) -> Mapping[str, QueueActivity] | None:
    """Return the activity of queues; None while the database is unavailable, without which clients read counts."""
    try:
        return read_activity(queues)
    except (DatabaseError, InterfaceError):
        return None

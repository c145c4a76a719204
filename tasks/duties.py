"""The maintenance duties of tasks: forward, recover, expire and delete them in every Redis queue, and store their
history.
"""

from collections.abc import Callable, Iterable, Sequence

from django.conf import settings
from django.db import connections

from queues.catalog import QueueCatalog
from queues.queries import get_catalog, get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.constants import ARCHIVE_MAX_AGE_S, RECOVERY_GRACE_S
from runqy.broker.duties.cancellations import enforce_cancellations
from runqy.broker.duties.foreign_ends import ForeignEndSearch
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.janitor import ArchiveCursors, StrayLockSearch, delete_expired
from runqy.broker.duties.orphans import OrphanSearch
from runqy.broker.duties.pending_timeouts import archive_all_timed_out
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.queues.stats import read_queue_names
from runqy.broker.request import AnyBroker
from runqy.broker.tasks.reader import LookupSweep
from runqy.broker.workers.claims import delete_stale_claims
from runqy.broker.workers.heartbeats import remove_expired_workers
from runqy.core.concurrency.threads import run_in_thread
from runqy.errors import ConfigurationUnavailable
from runqy.maintenance.base import DatabaseDuty, RedisDuty, register
from runqy.maintenance.failed_rows import RowFailures
from runqy.maintenance.retention import register_retention
from tasks.bulk_runner import find_old_bulk_actions, find_old_copies, run_bulk_actions
from tasks.ends import EndsCollector, list_observed_queues
from tasks.history.foreign_runs import ForeignRunSearch
from tasks.history.record import RunRecorder
from tasks.history.retention import prune_history
from tasks.history.rollups import RunSampler
from tasks.history.rows import QueueIdentity
from tasks.memory_shares import MemoryShareMeter
from tasks.models import BulkAction, TaskCopy

STEPS_PER_TICK = 5
"""Steps of 1,000 keys each, for duties that scan all keys."""


@register
class Forwarder(RedisDuty):
    """Move due tasks from `scheduled` and `retry` to `pending`."""

    name = "forwarder"
    interval_s = 1.0

    async def run(self, broker: Broker) -> None:
        await forward_due(broker, await list_served_queues(broker))


@register
class CancellationEnforcer(RedisDuty):
    """Archive cancelled tasks that workers of other programs put back."""

    name = "cancellation_enforcer"
    interval_s = 1.0

    async def run(self, broker: Broker) -> None:
        await enforce_cancellations(broker, await list_served_queues(broker))


@register
class Recoverer(RedisDuty):
    """Retry or archive active tasks whose lease expired longer than the grace period ago, or that have none."""

    name = "recoverer"
    interval_s = 10.0

    def __init__(self, grace_s: int | None = None) -> None:
        self._grace_s = min(settings.RUNQY_LEASE_S, RECOVERY_GRACE_S) if grace_s is None else grace_s
        self._watch = LeaselessWatch()

    async def run(self, broker: Broker) -> None:
        await recover_lost(broker, await list_served_queues(broker), self._watch, grace_s=self._grace_s)


@register
class Janitor(RedisDuty):
    """Delete ended tasks that have expired, and workers without a heartbeat."""

    name = "janitor"
    interval_s = 8.0

    def __init__(self) -> None:
        self._rounds = ArchiveCursors()

    async def run(self, broker: Broker) -> None:
        max_archived = settings.RUNQY_ARCHIVE_MAX_TASKS
        await delete_expired(broker, await get_archived_ttls_s(broker), self._rounds, max_archived=max_archived)
        await remove_expired_workers(broker)
        await delete_stale_claims(broker)


@register
class PendingTimeout(RedisDuty):
    """Archive tasks that were pending for longer than their queue's `pending_timeout`."""

    name = "pending_timeout"
    interval_s = 5.0

    async def run(self, broker: Broker) -> None:
        await archive_all_timed_out(broker, await get_pending_timeouts_s())


@register
class LookupSweeper(RedisDuty):
    """Remove index entries of tasks that no longer exist."""

    name = "lookup_sweeper"
    interval_s = 5.0

    def __init__(self) -> None:
        self._sweep = LookupSweep()

    async def run(self, broker: Broker) -> None:
        await _run_steps(self._sweep, broker)


@register
class OrphanFinder(RedisDuty):
    """Put back tasks that a Go worker dequeued and lost, and delete locks of those that it deleted; it scans only while
    Go workers are registered.
    """

    name = "orphan_finder"
    interval_s = 10.0

    def __init__(self) -> None:
        self._search, self._locks = OrphanSearch(), StrayLockSearch()

    async def run(self, broker: Broker) -> None:
        await _run_steps(self._search, broker)
        await _run_steps(self._locks, broker)


@register
class MemoryShares(RedisDuty):
    """Store which queues hold more than their share of Redis's memory."""

    name = "memory_shares"
    interval_s = 1.0

    def __init__(self) -> None:
        self._shares = MemoryShareMeter()

    async def run(self, broker: Broker) -> None:
        await self._shares.measure(broker, *await _read_queues(broker))


@register
class RunHistory(DatabaseDuty):
    """Move ended attempts from Redis to the history. While the database is unavailable they stay in Redis."""

    name = "run_history"
    interval_s = 1.0

    def __init__(self) -> None:
        self._recorder = RunRecorder()

    def run(self, broker: Broker) -> None:
        self._recorder.record_all(broker, *_list_queues(broker))


@register
class TaskEnds(DatabaseDuty):
    """Tell webhooks and batches of the ends of tasks. While the database is unavailable these stay in Redis."""

    name = "task_ends"
    interval_s = 0.5

    def __init__(self) -> None:
        self._collector = EndsCollector()

    def run(self, broker: Broker) -> None:
        self._collector.collect_all(broker, *_list_queues(broker))


@register
class ForeignEnds(DatabaseDuty):
    """Tell webhooks and batches of tasks that workers of other programs, or asynq's tools, ended."""

    name = "foreign_ends"
    interval_s = 10.0

    def __init__(self) -> None:
        self._search = ForeignEndSearch()

    def run(self, broker: Broker) -> None:
        if queues := list_observed_queues(*_list_queues(broker)):
            self._search.tell_all(broker, queues)


@register
class ForeignRuns(DatabaseDuty):
    """Record runs that Go workers ended, while Go workers are registered."""

    name = "foreign_runs"
    interval_s = 10.0

    def __init__(self) -> None:
        self._search = ForeignRunSearch()
        self._rows = RowFailures("run of another program")

    def run(self, broker: Broker) -> None:
        queues, catalog = _list_queues(broker)
        _handle_queues(self._rows, queues, catalog, lambda part: self._search.record_all(broker, part, catalog))


@register
class BacklogSampler(DatabaseDuty):
    """Record how many tasks are pending in each Redis queue, and for how long the oldest has been."""

    name = "backlog_sampler"
    interval_s = 15.0

    def __init__(self) -> None:
        self._sampler = RunSampler()
        self._rows = RowFailures("backlog")

    def run(self, broker: Broker) -> None:
        queues, catalog = _list_queues(broker)
        _handle_queues(self._rows, queues, catalog, lambda part: self._sampler.sample_all(broker, part, catalog))


@register
class HistoryPruner(DatabaseDuty):
    """Delete runs and statistics that are too old or too many, in slices."""

    name = "history_pruner"
    interval_s = 30.0

    def run(self, broker: Broker) -> None:
        prune_history()


@register
class BulkActionRunner(DatabaseDuty):
    """Apply bulk actions."""

    name = "bulk_actions"
    interval_s = 1.0

    def run(self, broker: Broker) -> bool:
        return run_bulk_actions(broker)


register_retention(TaskCopy, find_old_copies)
register_retention(BulkAction, find_old_bulk_actions)


async def list_served_queues(broker: AnyBroker) -> list[str]:
    """Return every Redis queue that is configured or exists. Raise BrokerUnavailable."""
    queues, _ = await _read_queues(broker)
    return queues


async def get_archived_ttls_s(broker: AnyBroker) -> dict[str, int]:
    """Return how long each Redis queue keeps archived tasks; asynq's default for queues that are not configured."""
    queues, catalog = await _read_queues(broker)
    resolved = {name: catalog.find(name) if catalog else None for name in queues}
    return {name: each.queue.limits.ttl_archived_s if each else ARCHIVE_MAX_AGE_S for name, each in resolved.items()}


async def get_pending_timeouts_s() -> dict[str, int]:
    """Return the `pending_timeout` of each configured Redis queue that has one."""
    catalog = await _read_catalog()
    resolved = [catalog.resolve(name) for name in catalog.redis_queues()] if catalog else []
    return {r.redis_queue: r.queue.limits.pending_timeout_s for r in resolved if r.queue.limits.pending_timeout_s > 0}


async def _run_steps(scan: LookupSweep | OrphanSearch | StrayLockSearch, broker: Broker) -> None:
    for _ in range(STEPS_PER_TICK):
        await scan.run_step(broker)
        if scan.is_round_complete:
            break  # at most one round in a tick


def _handle_queues(
    rows: RowFailures, queues: Sequence[str], catalog: QueueCatalog | None, call: Callable[[Sequence[str]], object]
) -> None:
    """Call for all Redis queues together. One for which it raises is left out for a while."""
    rows.begin_pass()
    rows.handle(queues, call, describe=lambda name: (name, f"of {name}", QueueIdentity.find(name, catalog).queue))


def _find_catalog() -> QueueCatalog | None:
    try:
        return get_fresh_catalog()
    except ConfigurationUnavailable:
        # Tasks are maintained even while the configuration is unavailable.
        return None


async def _read_catalog() -> QueueCatalog | None:
    """Return what `_find_catalog` does, on an event loop: a thread waits for the first snapshot."""
    try:
        return get_catalog()
    except ConfigurationUnavailable:
        return await run_in_thread(_wait_for_catalog)


def _wait_for_catalog() -> QueueCatalog | None:
    try:
        return _find_catalog()
    finally:
        connections.close_all()


def _list_queues(broker: Broker) -> tuple[list[str], QueueCatalog | None]:
    """Return every Redis queue that is configured or exists, and the configuration. Raise BrokerUnavailable."""
    catalog = _find_catalog()
    return _merge_names(catalog, broker.run(read_queue_names())), catalog


async def _read_queues(broker: AnyBroker) -> tuple[list[str], QueueCatalog | None]:
    """Return what `_list_queues` does, on an event loop."""
    catalog = await _read_catalog()
    return _merge_names(catalog, await broker.send(read_queue_names())), catalog


def _merge_names(catalog: QueueCatalog | None, found: Iterable[str]) -> list[str]:
    configured: Iterable[str] = catalog.redis_queues() if catalog else ()
    return list(dict.fromkeys([*configured, *found]))

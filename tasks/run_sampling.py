"""Sample the backlog of queues for their statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import structlog

from queues.catalog import QueueCatalog
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import QueueCounts, count_tasks
from tasks.models import QueueRollup
from tasks.rollups import ROLLUPS, floor_time
from tasks.run_history import QueueIdentity, store_or_drop

SLICE = 100
"""The number of samples that a transaction stores."""

log = structlog.get_logger(__name__)

_SAMPLES = ("backlog", "backlog_max", "oldest_ms")


@dataclass(slots=True)
class RunSampler:
    """Samples all Redis queues in one round trip. Queues that stay empty are not written."""

    _had_backlog: set[str] = field(default_factory=set)

    def sample_all(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> None:
        """Record a sample. Raise BrokerUnavailable, DatabaseError."""
        if not queues:
            return
        now_ns = broker.now_ns()
        counts = [count for count in broker.run(count_tasks(queues, now_ns=now_ns)) if self._is_recorded(count)]
        self._had_backlog = {count.queue for count in counts if count.pending}
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        counts.sort(key=lambda count: count.queue)  # the same order in all processes, so that they never deadlock
        for model, interval_s in ROLLUPS:
            for at in range(0, len(counts), SLICE):
                part = counts[at : at + SLICE]
                store_or_drop(part, partial(_store_samples, model, floor_time(now, interval_s), catalog), _drop)

    def _is_recorded(self, count: QueueCounts) -> bool:
        # The first sample without a backlog is recorded too, so that charts go down to zero.
        return count.pending > 0 or count.queue in self._had_backlog


def _store_samples(
    model: type[QueueRollup], start: datetime, catalog: QueueCatalog | None, counts: Sequence[QueueCounts]
) -> int:
    table = model._default_manager
    names = [count.queue for count in counts]
    found = {row.redis_queue: row for row in table.filter(start=start, redis_queue__in=names)}
    rows = []
    for name, count in zip(names, counts, strict=True):
        row = found.get(name)
        rows.append(
            model(
                redis_queue=name,
                queue=QueueIdentity.find(count.queue, catalog).queue,
                start=start,
                backlog=count.pending,
                backlog_max=max(count.pending, (row and row.backlog_max) or 0),
                oldest_ms=max(int(count.latency_s * 1000), (row and row.oldest_ms) or 0),
            )
        )
    # Only the columns of samples are changed: others may add to the counts of a row meanwhile.
    table.bulk_create(rows, update_conflicts=True, unique_fields=["redis_queue", "start"], update_fields=_SAMPLES)
    return len(rows)


def _drop(count: QueueCounts, error: Exception) -> None:
    log.warning("sample_not_stored", queue=count.queue, error=str(error))

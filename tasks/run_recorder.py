"""Move ended attempts from Redis to the database, each once, by any number of processes.

The cursor of each stream is a row in the database and moves in the transaction that stores the runs, so that a process
may be killed at any point: what was stored and not yet removed from Redis is skipped. See docs/adr/0033.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings

from queues.catalog import QueueCatalog
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.run_counters import RunCounters, add_run_counters
from runqy.broker.run_log import RunEntry, StreamPage, StreamStatus, delete_stream, read_runs, remove_runs
from runqy.broker.scanning import run_requests
from tasks.fulltext_index import merge_segments
from tasks.models import RunStream
from tasks.run_history import (
    REFUSALS,
    QueueIdentity,
    StreamBatch,
    get_streams,
    has_drops,
    record_drops,
    store_batch,
    store_or_drop,
)
from tasks.write_transactions import BatchSize

READ_MAX, READ_MIN = 1000, 50
"""How many entries are read at once, of all queues and of each; few would make transactions not worth their cost."""
QUEUES_MAX = 100
"""How many queues are read at once."""
TICK_MAX_S = 10.0
"""How long a tick goes on while there is more; then other queues of a new configuration are included."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RunRecorder:
    """Moves the runs of all queues."""

    batch_size: BatchSize = field(default_factory=BatchSize)

    def record_all(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> int:
        """Store what the streams hold, and return how many entries were read.

        Raise BrokerUnavailable, DatabaseError: the entries stay in Redis, up to the size of the stream.
        """
        ends_at_s, total = clock.monotonic_s() + TICK_MAX_S, 0
        remaining = list(queues)
        while remaining and clock.monotonic_s() < ends_at_s:
            busy: list[str] = []
            for start in range(0, len(remaining), QUEUES_MAX):
                stored, with_more = self._record(broker, remaining[start : start + QUEUES_MAX], catalog)
                total += stored
                busy += with_more
            remaining = busy
        return total

    def _record(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> tuple[int, Sequence[str]]:
        """Store the next entries of some streams; return how many were read, and the queues that may have more."""
        limit, now_ns = max(READ_MAX // len(queues), READ_MIN), broker.now_ns()
        pages = broker.run(run_requests({queue: read_runs(queue, limit=limit, now_ns=now_ns) for queue in queues}))
        _delete_others(broker, pages)
        found = {queue: page.entries for queue, page in pages.items() if page.entries}
        before = get_streams(found)
        for queue, entries in found.items():
            self._store(_identity(queue, catalog), entries)
        removals = {queue: remove_runs(queue, entries[-1].id) for queue, entries in found.items()}
        drops = _record_drops(broker.run(run_requests(removals)), before, catalog)
        broker.run(run_requests({queue: add_run_counters(queue, counters) for queue, counters in drops.items()}))
        return sum(map(len, found.values())), [queue for queue, entries in found.items() if len(entries) >= limit]

    def _store(self, identity: QueueIdentity, entries: Sequence[RunEntry]) -> None:
        """Store entries, at most a batch in a transaction; what the database refuses is counted as invalid."""
        start = 0
        while start < len(entries):
            part = entries[start : start + self.batch_size.value]
            try:
                store_or_drop(part, partial(self._store_batch, identity), partial(self._drop, identity))
            except REFUSALS:  # not because of an entry
                log.exception("runs_dropped", queue=identity.redis_queue, count=len(part))
            start += len(part)

    def _store_batch(self, identity: QueueIdentity, entries: Sequence[RunEntry]) -> int:
        batch = StreamBatch(
            runs=[(entry.id, entry.run) for entry in entries if entry.run is not None],
            invalid=[entry.id for entry in entries if entry.run is None],
            last_id=entries[-1].id,
        )
        written = store_batch(identity, batch, max_rate=settings.RUNQY_HISTORY_MAX_RATE)
        self.batch_size.adapt(len(entries), written.held_s)
        merge_segments()
        if batch.invalid:
            log.warning("runs_invalid", queue=identity.redis_queue, count=len(batch.invalid))
        return len(entries)

    def _drop(self, identity: QueueIdentity, entry: RunEntry, error: Exception) -> None:
        log.warning("run_not_stored", queue=identity.redis_queue, error=str(error))
        self._store_batch(identity, [RunEntry(entry.id, None)])


def _identity(queue: str, catalog: QueueCatalog | None) -> QueueIdentity:
    return QueueIdentity.find(queue, catalog)


def _delete_others(broker: Broker, pages: dict[str, StreamPage]) -> None:
    """Delete keys of streams that hold something else: only a worker can have written them."""
    others = [queue for queue, page in pages.items() if not page.is_stream]
    for queue in others:
        log.warning("stream_of_runs_replaced", queue=queue)
    broker.run(run_requests({queue: delete_stream(queue) for queue in others}))


def _record_drops(
    statuses: dict[str, StreamStatus], before: dict[str, RunStream], catalog: QueueCatalog | None
) -> dict[str, RunCounters]:
    """Record what full streams dropped; return the counts for /metrics."""
    streams, drops = get_streams(statuses), {}
    for queue, status in statuses.items():
        stream = streams.get(queue)
        if stream and has_drops(stream, appended=status.appended, left=status.length):
            added = record_drops(
                _identity(queue, catalog), before.get(stream.redis_queue), appended=status.appended, left=status.length
            )
            if added:
                drops[queue] = RunCounters(dropped=added)
    return drops

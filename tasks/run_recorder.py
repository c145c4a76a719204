"""Move ended attempts from Redis to the database, each once, by any number of processes.

The cursor of each stream is a row in the database, and moves in the transaction that stores the runs. So a process may
be killed at any point: entries that were stored but not yet removed from Redis are skipped. See docs/adr/0030.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import structlog
from django.conf import settings

from queues.catalog import QueueCatalog
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.scanning import run_requests
from runqy.broker.streams.run_counters import RunCounters, add_run_counters
from runqy.broker.streams.run_log import RunEntry, StreamPage, StreamStatus, delete_stream, read_runs, remove_runs
from tasks.fulltext_index import merge_segments
from tasks.models import RunStream
from tasks.run_history import (
    REFUSALS,
    QueueIdentity,
    StreamBatch,
    get_streams,
    has_drops,
    record_drops,
    store_batches,
    store_or_drop,
)
from tasks.write_transactions import BatchSize, checkpoint

READ_MAX, READ_MIN = 1000, 50
"""The entries that are read at once, of all queues and of each: a transaction is not worth its cost for few."""
QUEUES_MAX = 100
"""The number of queues that are read at once."""
TICK_MAX_S = 10.0
"""How long a tick continues while there are entries. The next tick includes queues that are new by then."""
MERGE_EVERY = 4
"""How many transactions add to SQLite's full-text index before it is merged: FTS5 merges four segments or more."""

QueueEntry = tuple[QueueIdentity, RunEntry]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RunRecorder:
    """Moves the runs of all queues to the database."""

    batch_size: BatchSize = field(default_factory=BatchSize)
    _unmerged: int = 0
    """Transactions since the full-text index was merged. Each added a segment."""

    def record_all(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> int:
        """Store the entries of the streams, and return how many were read.

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
        """Store the next entries of some streams. Return how many were read, and the queues that may have more."""
        limit, now_ns = max(READ_MAX // len(queues), READ_MIN), broker.now_ns()
        pages = broker.run(run_requests({queue: read_runs(queue, limit=limit, now_ns=now_ns) for queue in queues}))
        _delete_others(broker, pages)
        found = {queue: page.entries for queue, page in pages.items() if page.entries}
        before = get_streams(found)
        identities = {queue: QueueIdentity.find(queue, catalog) for queue in sorted(found)}
        self._store([(identity, entry) for queue, identity in identities.items() for entry in found[queue]])
        if found:
            checkpoint()
        # Removed only after the commit, so that a process that is killed in between loses nothing.
        removals = {queue: remove_runs(queue, entries[-1].id) for queue, entries in found.items()}
        drops = _record_drops(broker.run(run_requests(removals)), before, catalog)
        broker.run(run_requests({queue: add_run_counters(queue, counters) for queue, counters in drops.items()}))
        return sum(map(len, found.values())), [queue for queue, entries in found.items() if len(entries) >= limit]

    def _store(self, entries: Sequence[QueueEntry]) -> None:
        start = 0
        while start < len(entries):
            part = entries[start : start + self.batch_size.value]
            try:
                store_or_drop(part, self._store_part, self._drop)
            except REFUSALS:  # even the count of an invalid entry was refused, so it is not because of an entry
                log.exception("runs_dropped", queues=sorted({q.redis_queue for q, _ in part}), count=len(part))
            start += len(part)

    def _store_part(self, entries: Sequence[QueueEntry]) -> int:
        batches = [_make_batch(identity, [e for _, e in group]) for identity, group in groupby(entries, itemgetter(0))]
        written = store_batches(batches, max_rate=settings.RUNQY_HISTORY_MAX_RATE)
        self.batch_size.adapt(len(entries), written.held_s)
        self._unmerged += 1
        if self._unmerged >= MERGE_EVERY:
            merge_segments()
            self._unmerged = 0
        for batch in batches:
            if batch.invalid:
                log.warning("runs_invalid", queue=batch.identity.redis_queue, count=len(batch.invalid))
        return len(entries)

    def _drop(self, refused: QueueEntry, error: Exception) -> None:
        identity, entry = refused
        log.warning("run_not_stored", queue=identity.redis_queue, error=str(error))
        # Stored as an entry that could not be read: it is counted, and the cursor passes it.
        self._store_part([(identity, RunEntry(entry.id, None))])


def _make_batch(identity: QueueIdentity, entries: Sequence[RunEntry]) -> StreamBatch:
    return StreamBatch(
        identity=identity,
        runs=[(entry.id, entry.run) for entry in entries if entry.run is not None],
        invalid=[entry.id for entry in entries if entry.run is None],
        last_id=entries[-1].id,
    )


def _delete_others(broker: Broker, pages: dict[str, StreamPage]) -> None:
    # Only a worker can have written something else to the key of a stream.
    others = [queue for queue, page in pages.items() if not page.is_stream]
    for queue in others:
        log.warning("stream_of_runs_replaced", queue=queue)
    broker.run(run_requests({queue: delete_stream(queue) for queue in others}))


def _record_drops(
    statuses: dict[str, StreamStatus], before: dict[str, RunStream], catalog: QueueCatalog | None
) -> dict[str, RunCounters]:
    """Record what full streams dropped. Return the counts for /metrics."""
    streams, drops = get_streams(statuses), {}
    for queue, status in statuses.items():
        stream = streams.get(queue)
        if stream and has_drops(stream, appended=status.appended, left=status.length):
            added = record_drops(
                QueueIdentity.find(queue, catalog),
                before.get(stream.redis_queue),
                appended=status.appended,
                left=status.length,
            )
            if added:
                drops[queue] = RunCounters(dropped=added)
    return drops

"""Move ended attempts from Redis to the database, each once, by any number of processes.

The cursor of each stream is a row in the database, and moves in the transaction that stores the runs. So a process may
be killed at any point: entries that were stored but not yet removed from Redis are skipped. See ADR 0030.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from queues.catalog import QueueCatalog
from runqy.broker.broker import Broker
from runqy.broker.scanning import run_requests
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import RunCount, RunCounters, add_run_counters
from runqy.broker.streams.run_log import (
    EndedRun,
    EntryId,
    RunEntry,
    StreamPage,
    StreamStatus,
    delete_stream,
    read_runs,
    remove_runs,
)
from runqy.maintenance.failed_rows import RowFailures
from runqy.maintenance.streams import move_in_turns
from tasks.history.fulltext_index import merge_segments
from tasks.history.rollups import MINUTE_S, RollupDelta, add_to_rollups, floor_time, sum_up
from tasks.history.rows import QueueIdentity, RunKey, build_row, prepare_rows
from tasks.models import PrunedRuns, RunStream, TaskRun
from tasks.transactions import (
    REFUSALS,
    BatchSize,
    WriteTransaction,
    checkpoint,
    store_or_drop,
    write_transaction,
)

MERGE_EVERY = 4
"""How many transactions add to SQLite's full-text index before it is merged: FTS5 merges four segments or more."""

log = structlog.get_logger(__name__)

_STREAM_FIELDS = [
    field.name for field in RunStream._meta.concrete_fields if not field.primary_key and field.name != "redis_queue"
]

_failures = RowFailures("run history")

QueueEntry = tuple[QueueIdentity, RunEntry]


def store_entries(entries: Sequence[QueueEntry], *, max_rate: int) -> WriteTransaction:
    """Store entries of streams, queue by queue, and move the streams' cursors past them, in one transaction.

    Entries up to the cursor were stored before, or were appended by a Redis whose clock went back: only those runs that
    have no row are stored. Successes beyond `max_rate` a second are only added to the rollups. See ADR 0030.
    """
    prepared = prepare_rows(build_row(identity, entry.run) for identity, entry in entries if entry.run is not None)
    added = sum_up(prepared.rows.values())
    with write_transaction() as written:
        # The locks come first: what is read below must not change before the commit.
        streams = lock_streams({identity.redis_queue for identity, _ in entries})
        sorting = _Sorting(_find_stored(prepared.rows), max_rate)
        for identity, group in groupby(entries, itemgetter(0)):
            sorting.pass_entries(streams[identity.redis_queue], [entry for _, entry in group])
        prepared.insert(sorting.new)
        # Computed again only if some runs were known.
        is_all = len(sorting.counted) == len(prepared.rows)
        add_to_rollups(added if is_all else sum_up(prepared.rows[key] for key in sorting.counted))
        _save_streams(streams.values())
    return written


@dataclass(slots=True)
class _Sorting:
    """Sorts the runs of entries into those to insert and those only to count."""

    known: set[RunKey]
    """Those that have a row, and those that were sorted."""
    max_rate: int
    new: list[RunKey] = field(default_factory=list)
    counted: list[RunKey] = field(default_factory=list)
    """Also those that are new."""

    def pass_entries(self, stream: RunStream, entries: Sequence[RunEntry]) -> None:
        """Move a stream's cursor past entries, and sort their runs."""
        cursor, counted_before = parse_entry_id(stream.cursor), len(self.counted)
        may_be_counted = min(cursor, parse_entry_id(stream.counted_only_cursor))
        for entry in entries:
            stream.passed += entry.id > cursor
            if entry.run is None:
                stream.invalid += entry.id > cursor
                continue
            key = entry.run.task_id, entry.run.run_id
            is_success = entry.run.outcome is RunOutcome.COMPLETED
            # A success up to there may have been counted without a row.
            if key in self.known or (is_success and entry.id <= may_be_counted):
                continue
            self.known.add(key)
            self.counted.append(key)
            if is_success and not _is_within_rate(stream, entry.id, self.max_rate):
                stream.counted_only += 1
                stream.counted_only_cursor = format_entry_id(entry.id)
            else:
                self.new.append(key)
        stream.recorded += len(self.counted) - counted_before
        stream.cursor = format_entry_id(max(entries[-1].id, cursor))


def store_runs(identity: QueueIdentity, runs: Iterable[EndedRun]) -> int:
    """Store runs that were not read from a stream, and may be seen repeatedly; return how many rows are new."""
    prepared = prepare_rows(build_row(identity, run) for run in runs)
    with write_transaction():
        lock_stream(identity.redis_queue)
        known = _find_stored(prepared.rows)
        # Read after the rows, since retention records a time before it deletes rows. A run that ended earlier may
        # have been one of those.
        pruned = _find_pruned(identity.queue)
        new = [
            key for key, row in prepared.rows.items() if key not in known and (pruned is None or row.ended_at > pruned)
        ]
        prepared.insert(new)
        add_to_rollups(sum_up(prepared.rows[key] for key in new))
    return len(new)


def count_invalid_run(identity: QueueIdentity) -> None:
    """Count, as invalid, a run that was not read from a stream and cannot be stored."""
    with transaction.atomic():
        stream = lock_stream(identity.redis_queue)
        stream.invalid += 1
        stream.save()


def get_streams(redis_queues: Iterable[str]) -> dict[str, RunStream]:
    return {row.redis_queue: row for row in RunStream.objects.filter(redis_queue__in=list(redis_queues))}


def record_drops(identity: QueueIdentity, before: RunStream | None, *, appended: int, left: int) -> int:
    """Count the entries that a full stream dropped: appended, no longer in the stream, and not passed by the cursor.

    Return how many of them are new. `before` is the stream's row as it was before its entries were read.
    """
    # Fewer entries were ever appended than are accounted for: Redis lost its data, and a new stream began.
    has_restarted = before is not None and appended < before.passed - before.passed_before + before.dropped_seen
    with transaction.atomic():
        stream = lock_stream(identity.redis_queue)
        if has_restarted and before is not None and stream.passed_before == before.passed_before:
            stream.passed_before, stream.dropped_seen = before.passed, 0
        # Entries that another process has stored but not yet removed count as left and as passed; the next call finds
        # the drops that they hide.
        dropped = appended - left - (stream.passed - stream.passed_before)
        added = max(dropped - stream.dropped_seen, 0)
        if added:
            now, delta = timezone.now(), RollupDelta(identity.queue)
            delta.counts["dropped"] = added
            add_to_rollups({(identity.redis_queue, floor_time(now, MINUTE_S)): delta})
            stream.dropped, stream.dropped_seen, stream.dropped_at = stream.dropped + added, dropped, now
        stream.save()
    return added


def has_drops(stream: RunStream, *, appended: int, left: int) -> bool:
    """Return whether the counts of a stream differ from those of its row, so that `record_drops` has to run."""
    return appended - left - (stream.passed - stream.passed_before) != stream.dropped_seen


def lock_streams(redis_queues: Collection[str]) -> dict[str, RunStream]:
    """Return the rows of Redis queues' streams, locked until the transaction ends. SQLite locks the whole database."""
    # Rows are locked, and created, in the same order in all processes, so that they never deadlock.
    rows = RunStream.objects.select_for_update().filter(redis_queue__in=redis_queues).order_by("redis_queue")
    streams = {row.redis_queue: row for row in rows}
    if missing := sorted(set(redis_queues) - streams.keys()):
        RunStream.objects.bulk_create([RunStream(redis_queue=name) for name in missing], ignore_conflicts=True)
        streams = {row.redis_queue: row for row in rows.all()}
    return streams


def lock_stream(redis_queue: str) -> RunStream:
    """Return the row of one stream, locked like `lock_streams`."""
    return lock_streams([redis_queue])[redis_queue]


def _save_streams(streams: Iterable[RunStream]) -> None:
    # An upsert is one statement for all rows; it finds them by their unique name.
    rows = list(streams)
    for row in rows:
        row.pk = None
    RunStream.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["redis_queue"], update_fields=_STREAM_FIELDS
    )


def parse_entry_id(text: str) -> EntryId:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)


def format_entry_id(entry_id: EntryId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def _find_stored(keys: Iterable[RunKey]) -> set[RunKey]:
    by_task: defaultdict[str, list[str]] = defaultdict(list)
    for task_id, run_id in keys:
        by_task[task_id].append(run_id)
    stored = TaskRun.objects.filter(task_id__in=list(by_task)).values_list("task_id", "run_id")
    return {(task_id, run_id) for task_id, run_id in stored if run_id in by_task[task_id]}


def _find_pruned(queue: str) -> datetime | None:
    """Return the newest end of the deleted runs of a queue; None if none were deleted."""
    rows = PrunedRuns.objects.filter(queue__in=("", queue))
    return max((row.ended_at for row in rows), default=None)


def _is_within_rate(stream: RunStream, entry_id: EntryId, max_rate: int) -> bool:
    """Count a success, and return whether it is stored in full: always if `max_rate` is 0."""
    # Counted by when the entry was appended: workers' clocks differ, so the ends of runs are in no order.
    second = entry_id[0] // 1000
    if second != stream.rate_second:
        stream.rate_second, stream.rate_count = second, 0
    stream.rate_count += 1
    return not max_rate or stream.rate_count <= max_rate


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
        _failures.begin_pass()
        total = 0

        def move(some: Sequence[str], limit: int) -> list[str]:
            nonlocal total
            stored = self._record(broker, some, catalog, limit=limit)
            total += sum(stored.values())
            return [queue for queue, count in stored.items() if count >= limit]

        move_in_turns(queues, move)
        return total

    def _record(
        self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None, *, limit: int
    ) -> Mapping[str, int]:
        """Store the next entries of some streams; return how many of each queue that had some."""
        now_ns = broker.now_ns()
        pages = broker.run(
            run_requests(broker, {queue: read_runs(queue, limit=limit, now_ns=now_ns) for queue in queues})
        )
        _delete_others(broker, pages)
        found = {queue: page.entries for queue, page in pages.items() if page.entries}
        before = get_streams(found)
        identities = {queue: QueueIdentity.find(queue, catalog) for queue in sorted(found)}
        stored = set[str]()

        def store(part: Sequence[tuple[str, QueueIdentity]]) -> None:
            self._store([(identity, entry) for queue, identity in part for entry in found[queue]])
            stored.update(queue for queue, _ in part)

        # The entries of a queue that cannot be stored stay in its stream.
        _failures.handle(list(identities.items()), store, describe=_describe)
        found = {queue: entries for queue, entries in found.items() if queue in stored}
        if found:
            checkpoint()
        # Removed only after the commit, so that a process that is killed in between loses nothing.
        removals = {queue: remove_runs(queue, entries[-1].id) for queue, entries in found.items()}
        drops = _record_drops(broker.run(run_requests(broker, removals)), before, catalog)
        broker.run(
            run_requests(broker, {queue: add_run_counters(queue, counters) for queue, counters in drops.items()})
        )
        return {queue: len(entries) for queue, entries in found.items()}

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
        written = store_entries(entries, max_rate=settings.RUNQY_HISTORY_MAX_RATE)
        self.batch_size.adapt(len(entries), written.held_s)
        self._unmerged += 1
        if self._unmerged >= MERGE_EVERY:
            merge_segments()
            self._unmerged = 0
        invalid = Counter(identity.redis_queue for identity, entry in entries if entry.run is None)
        for queue, count in invalid.items():
            log.warning("runs_invalid", queue=queue, count=count)
        return len(entries)

    def _drop(self, refused: QueueEntry, error: Exception) -> None:
        identity, entry = refused
        log.warning("run_not_stored", queue=identity.redis_queue, error=str(error))
        # Stored as an entry that could not be read: it is counted, and the cursor passes it.
        self._store_part([(identity, RunEntry(entry.id, None))])


def _describe(stream: tuple[str, QueueIdentity]) -> tuple[str, str, str]:
    redis_queue, identity = stream
    return redis_queue, f"of {redis_queue}", identity.queue


def _delete_others(broker: Broker, pages: dict[str, StreamPage]) -> None:
    # Only a worker can have written something else to the key of a stream.
    others = [queue for queue, page in pages.items() if not page.is_stream]
    for queue in others:
        log.warning("run_stream_replaced", queue=queue)
    broker.run(run_requests(broker, {queue: delete_stream(queue) for queue in others}))


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
                drops[queue] = RunCounters({RunCount.DROPPED: added})
    return drops

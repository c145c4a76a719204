"""Store ended runs in the database and in the rollups, each once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from django.db import DataError, IntegrityError, transaction
from django.utils import timezone

from queues.catalog import QueueCatalog
from queues.queries import hides_payloads
from runqy.broker.replies import replace_nul
from runqy.broker.states import FAILURES, RunOutcome
from runqy.broker.streams.run_log import EndedRun, EntryId
from tasks.error_groups import parse_error
from tasks.fulltext_index import payload_text
from tasks.models import PrunedRuns, RunStream, TaskRun
from tasks.rollups import MINUTE_S, RollupDelta, add_to_rollups, floor_time
from tasks.run_rows import RunKey, RunRow, prepare_rows
from tasks.write_transactions import WriteTransaction, write_transaction

T = TypeVar("T")

_STREAM_FIELDS = [
    field.name for field in RunStream._meta.concrete_fields if not field.primary_key and field.name != "redis_queue"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueIdentity:
    """The queue and sub-queue of a Redis queue, and what its history may hold."""

    redis_queue: str
    queue: str
    sub_queue: str = ""
    hides_payloads: bool = False

    @classmethod
    def find(cls, redis_queue: str, catalog: QueueCatalog | None) -> "QueueIdentity":
        # A Redis queue that belongs to no queue is its own queue.
        hides = hides_payloads(redis_queue, catalog)
        resolved = catalog.find_redis_queue(redis_queue) if catalog else None
        if resolved is None or catalog is None:
            return cls(redis_queue=redis_queue, queue=redis_queue, hides_payloads=hides)
        queue = resolved.queue.name
        return cls(
            redis_queue=redis_queue,
            queue=queue,
            sub_queue=redis_queue.removeprefix(queue + catalog.separator) if redis_queue != queue else "",
            hides_payloads=hides,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBatch:
    """Entries of a Redis queue's stream, read in order."""

    identity: QueueIdentity
    runs: Sequence[tuple[EntryId, EndedRun]]
    last_id: EntryId
    """The id of the last entry, which may be one that could not be read."""
    invalid: Sequence[EntryId] = ()
    """Entries that could not be read."""


def store_batches(batches: Sequence[StreamBatch], *, max_rate: int) -> WriteTransaction:
    """Store entries of streams, one batch of each, and move their cursors past them, in one transaction.

    Entries up to the cursor were stored before, or were appended by a Redis whose clock went back: only those runs that
    have no row are stored. Successes beyond `max_rate` a second are only added to the rollups. See docs/adr/0030.
    """
    prepared = prepare_rows(build_row(batch.identity, run) for batch in batches for _, run in batch.runs)
    with write_transaction() as written:
        # The locks come first: what is read below must not change before the commit.
        streams = lock_streams([batch.identity.redis_queue for batch in batches])
        known = _find_stored(prepared.rows)
        new: list[RunKey] = []
        counted: list[RunKey] = []
        for batch in batches:
            _pass_entries(streams[batch.identity.redis_queue], batch, known, new, counted, max_rate=max_rate)
        prepared.insert(new)
        add_to_rollups(prepared.sum_up(counted))
        _save_streams(streams.values())
    return written


def _pass_entries(  # noqa: PLR0913 (what is known, and what to do)
    stream: RunStream,
    batch: StreamBatch,
    known: set[RunKey],
    new: list[RunKey],
    counted: list[RunKey],
    *,
    max_rate: int,
) -> None:
    """Move a cursor past entries. Add the runs to insert to `new`, those to count to `counted`, and both to `known`."""
    cursor, counted_before = parse_entry_id(stream.cursor), len(counted)
    may_be_counted = min(cursor, parse_entry_id(stream.counted_only_cursor))
    for entry_id, run in batch.runs:
        key = run.task_id, run.run_id
        if key in known:
            continue
        if run.outcome is RunOutcome.COMPLETED:
            if entry_id <= may_be_counted:
                continue  # it may have been counted without a row
            if not _is_within_rate(stream, entry_id, max_rate):
                stream.counted_only += 1
                stream.counted_only_cursor = format_entry_id(entry_id)
                known.add(key)
                counted.append(key)
                continue
        known.add(key)
        new.append(key)
        counted.append(key)
    stream.recorded += len(counted) - counted_before
    stream.invalid += sum(entry_id > cursor for entry_id in batch.invalid)
    stream.passed += sum(entry_id > cursor for entry_id in (*batch.invalid, *(entry_id for entry_id, _ in batch.runs)))
    stream.cursor = format_entry_id(max(batch.last_id, cursor))


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
        add_to_rollups(prepared.sum_up(new))
    return len(new)


def drop_run(identity: QueueIdentity) -> None:
    """Count, as invalid, a run that was not read from a stream and cannot be stored."""
    with transaction.atomic():
        stream = lock_stream(identity.redis_queue)
        stream.invalid += 1
        stream.save()


REFUSALS = (DataError, IntegrityError, ValueError, OverflowError)
"""The errors of the database for values that it cannot store: too long, out of range, or with a NUL."""


def store_or_drop(
    records: Sequence[T], store: Callable[[Sequence[T]], int], drop: Callable[[T, Exception], None]
) -> int:
    """Store records together. If the database refuses them, store each half, and drop the single records that it
    refuses.
    """
    try:
        return store(records)
    except REFUSALS as error:
        if len(records) == 1:
            drop(records[0], error)
            return 0
    middle = len(records) // 2
    return store_or_drop(records[:middle], store, drop) + store_or_drop(records[middle:], store, drop)


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


def build_row(identity: QueueIdentity, run: EndedRun) -> RunRow:
    """Return the row of a run, not yet stored."""
    error = parse_error(run.error) if run.outcome in FAILURES else None
    # A task that ended without an attempt waited until its end. The wait of an attempt whose start is unknown is
    # unknown too.
    waited_until_ns = run.started_ns if run.started_ns is not None or run.attempt else run.ended_ns
    due_ns = run.enqueued_ns if run.due_ns is None and run.attempt else run.due_ns
    return RunRow(
        task_id=run.task_id,
        run_id=run.run_id,
        queue=identity.queue,
        sub_queue=identity.sub_queue,
        redis_queue=identity.redis_queue,
        attempt=run.attempt,
        outcome=run.outcome.value,
        is_final=run.is_final,
        is_foreign=run.is_foreign,
        worker_id=run.worker_id,
        commit=run.commit,
        request_id=run.request_id,
        enqueued_at=_datetime(run.enqueued_ns),
        started_at=_datetime(run.started_ns),
        ended_at=datetime.fromtimestamp(run.ended_ns / 1e9, UTC),
        wait_ms=_span_ms(due_ns, waited_until_ns),
        run_ms=_span_ms(run.started_ns, run.ended_ns),
        error_class=error.error_class if error else "",
        error_message=error.message if error else "",
        fingerprint=error.fingerprint if error else None,
        payload="" if identity.hides_payloads else _text(run.payload),
        result="" if identity.hides_payloads else _text(run.result),
        traceback=error.traceback if error and not identity.hides_payloads else "",
        is_first=run.attempt == 1 or (run.attempt == 0 and run.is_final and not run.had_attempts),
    )


def lock_streams(redis_queues: Sequence[str]) -> dict[str, RunStream]:
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
    by_task: Mapping[str, list[str]] = _group(keys)
    stored = TaskRun.objects.filter(task_id__in=list(by_task)).values_list("task_id", "run_id")
    return {(task_id, run_id) for task_id, run_id in stored if run_id in by_task[task_id]}


def _find_pruned(queue: str) -> datetime | None:
    """Return the newest end of the deleted runs of a queue; None if none were deleted."""
    rows = PrunedRuns.objects.filter(queue__in=("", queue))
    return max((row.ended_at for row in rows), default=None)


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        grouped[key].append(value)
    return grouped


def _is_within_rate(stream: RunStream, entry_id: EntryId, max_rate: int) -> bool:
    """Count a success, and return whether it is stored in full: always if `max_rate` is 0."""
    # Counted by when the entry was appended: workers' clocks differ, so the ends of runs are in no order.
    second = entry_id[0] // 1000
    if second != stream.rate_second:
        stream.rate_second, stream.rate_count = second, 0
    stream.rate_count += 1
    return not max_rate or stream.rate_count <= max_rate


def _datetime(ns: int | None) -> datetime | None:
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC)


def _span_ms(start_ns: int | None, end_ns: int | None) -> int | None:
    # Not below 0: the times are from different clocks.
    return None if start_ns is None or end_ns is None else max(end_ns - start_ns, 0) // 1_000_000


def _text(data: bytes | None) -> str:
    """Return an excerpt as text that can be searched and that PostgreSQL can store: without NUL and incomplete
    characters.
    """
    return replace_nul(payload_text(data or b""))

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
from runqy.broker.run_log import EndedRun, EntryId
from runqy.broker.states import FAILURES, RunOutcome
from tasks.error_groups import parse_error
from tasks.models import PrunedRuns, RunStream, TaskRun
from tasks.rollups import MINUTE_S, RollupDelta, add_to_rollups, floor_time
from tasks.run_rows import RunKey, prepare_rows
from tasks.write_transactions import WriteTransaction, write_transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueIdentity:
    """The queue and sub-queue of a Redis queue, and what its history may hold."""

    redis_queue: str
    queue: str
    sub_queue: str = ""
    hides_payloads: bool = False

    @classmethod
    def find(cls, redis_queue: str, catalog: QueueCatalog | None) -> "QueueIdentity":
        """Look up a Redis queue; one that belongs to no queue is its own queue."""
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

    runs: Sequence[tuple[EntryId, EndedRun]]
    last_id: EntryId
    """Of the last entry, which may be one that could not be read."""
    invalid: Sequence[EntryId] = ()
    """Entries that could not be read."""


def store_batch(identity: QueueIdentity, batch: StreamBatch, *, max_rate: int) -> WriteTransaction:
    """Store entries of a stream and move its cursor past them, in one transaction.

    Entries up to the cursor were stored before, or were appended by a Redis whose clock went back: of these, only runs
    that have no row are stored. Successes beyond `max_rate` a second are added to the rollups only.
    """
    entry_ids = {(run.task_id, run.run_id): entry_id for entry_id, run in batch.runs}
    prepared = prepare_rows([build_row(identity, run) for _, run in batch.runs])
    with write_transaction() as written:
        stream = lock_stream(identity.redis_queue)
        cursor = parse_entry_id(stream.cursor)
        known = _find_stored(entry_ids)
        new: list[RunKey] = []
        counted: list[RunKey] = []
        for key, row in prepared.rows.items():
            if key in known:
                continue
            entry_id = entry_ids[key]
            if row.outcome == RunOutcome.COMPLETED:
                if entry_id <= min(cursor, parse_entry_id(stream.counted_only_cursor)):
                    continue  # it may have been counted without a row
                if not _is_within_rate(stream, entry_id, max_rate):
                    stream.counted_only += 1
                    stream.counted_only_cursor = format_entry_id(entry_id)
                    counted.append(key)
                    continue
            new.append(key)
            counted.append(key)
        prepared.insert(new)
        add_to_rollups(prepared.sum_up(counted), queue=identity.queue, redis_queue=identity.redis_queue)
        stream.recorded += len(counted)
        stream.invalid += sum(entry_id > cursor for entry_id in batch.invalid)
        stream.passed += sum(
            entry_id > cursor for entry_id in (*batch.invalid, *(entry_id for entry_id, _ in batch.runs))
        )
        stream.cursor = format_entry_id(max(batch.last_id, cursor))
        stream.save()
    return written


def store_runs(identity: QueueIdentity, runs: Iterable[EndedRun]) -> int:
    """Store runs that were not read from a stream, and may be seen again and again; return how many rows are new.

    What ended before the runs that were deleted may have been one of them.
    """
    prepared = prepare_rows([build_row(identity, run) for run in runs])
    with write_transaction():
        lock_stream(identity.redis_queue)
        known = _find_stored(prepared.rows)
        pruned = _find_pruned(identity.queue)  # after the look for rows, which may be deleted in between
        new = [
            key for key, row in prepared.rows.items() if key not in known and (pruned is None or row.ended_at > pruned)
        ]
        prepared.insert(new)
        add_to_rollups(prepared.sum_up(new), queue=identity.queue, redis_queue=identity.redis_queue)
    return len(new)


def drop_run(identity: QueueIdentity) -> None:
    """Count a run that was not read from a stream and cannot be stored."""
    with transaction.atomic():
        stream = lock_stream(identity.redis_queue)
        stream.invalid += 1
        stream.save()


REFUSALS = (DataError, IntegrityError, ValueError, OverflowError)
"""What the database raises for values that it cannot store: too long, out of range, with a NUL."""


def store_or_drop(
    records: Sequence[T], store: Callable[[Sequence[T]], int], drop: Callable[[T, Exception], None]
) -> int:
    """Store records together; if the database refuses that, store each alone, and drop those that it refuses."""
    try:
        return store(records)
    except REFUSALS as error:
        if len(records) == 1:
            drop(records[0], error)
            return 0
    return sum(store_or_drop([record], store, drop) for record in records)


def get_streams(redis_queues: Iterable[str]) -> dict[str, RunStream]:
    """Return the rows of streams, as far as there are any."""
    return {row.redis_queue: row for row in RunStream.objects.filter(redis_queue__in=list(redis_queues))}


def record_drops(identity: QueueIdentity, before: RunStream | None, *, appended: int, left: int) -> int:
    """Count the entries that a full stream dropped: appended, no longer in the stream, and not passed by the cursor.

    Return how many were not counted before.

    `before` is the stream's row as read before its entries. Entries that another process has stored but not yet
    removed count as left and as passed, so the next call finds the drops that they conceal.
    """
    has_restarted = before is not None and appended < before.passed - before.passed_before + before.dropped_seen
    with transaction.atomic():
        stream = lock_stream(identity.redis_queue)
        if has_restarted and before is not None and stream.passed_before == before.passed_before:
            stream.passed_before, stream.dropped_seen = before.passed, 0
        dropped = appended - left - (stream.passed - stream.passed_before)
        added = max(dropped - stream.dropped_seen, 0)
        if added:
            now, delta = timezone.now(), RollupDelta()
            delta.counts["dropped"] = added
            add_to_rollups({floor_time(now, MINUTE_S): delta}, queue=identity.queue, redis_queue=identity.redis_queue)
            stream.dropped, stream.dropped_seen, stream.dropped_at = stream.dropped + added, dropped, now
        stream.save()
    return added


def has_drops(stream: RunStream, *, appended: int, left: int) -> bool:
    """Return whether the counts of a stream differ from those of its row, so that `record_drops` has to look."""
    return appended - left - (stream.passed - stream.passed_before) != stream.dropped_seen


def build_row(identity: QueueIdentity, run: EndedRun) -> TaskRun:
    """Return the row of a run, not yet saved."""
    error = parse_error(run.error) if run.outcome in FAILURES else None
    waited_until_ns = run.started_ns if run.started_ns is not None or run.attempt else run.ended_ns
    return TaskRun(
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
        wait_ms=_span_ms(run.due_ns if run.due_ns is not None else run.enqueued_ns, waited_until_ns),
        run_ms=_span_ms(run.started_ns, run.ended_ns),
        error_class=error.error_class if error else "",
        error_message=error.message if error else "",
        fingerprint=error.fingerprint if error else None,
        payload="" if identity.hides_payloads else _text(run.payload),
        result="" if identity.hides_payloads else _text(run.result),
        traceback=error.traceback if error and not identity.hides_payloads else "",
    )


def lock_stream(redis_queue: str) -> RunStream:
    """Return the row of a Redis queue's stream, locked until the transaction ends. SQLite locks all rows."""
    stream, _ = RunStream.objects.select_for_update().get_or_create(redis_queue=redis_queue)
    return stream


def parse_entry_id(text: str) -> EntryId:
    """Return the id of a stream's entry as two numbers."""
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)


def format_entry_id(entry_id: EntryId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def _find_stored(keys: Iterable[RunKey]) -> set[RunKey]:
    """Return the keys of those runs that have a row."""
    by_task: Mapping[str, list[str]] = _group(keys)
    stored = TaskRun.objects.filter(task_id__in=list(by_task)).values_list("task_id", "run_id")
    return {(task_id, run_id) for task_id, run_id in stored if run_id in by_task[task_id]}


def _find_pruned(queue: str) -> datetime | None:
    """Return up to which end runs of a queue were deleted."""
    rows = PrunedRuns.objects.filter(queue__in=("", queue))
    return max((row.ended_at for row in rows), default=None)


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        grouped[key].append(value)
    return grouped


def _is_within_rate(stream: RunStream, entry_id: EntryId, max_rate: int) -> bool:
    """Count a success, and return whether it is stored in full. `max_rate` 0: always.

    The second is the one in which the entry was appended: workers' clocks differ, so the ends are in no order.
    """
    second = entry_id[0] // 1000
    if second != stream.rate_second:
        stream.rate_second, stream.rate_count = second, 0
    stream.rate_count += 1
    return not max_rate or stream.rate_count <= max_rate


def _datetime(ns: int | None) -> datetime | None:
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC)


def _span_ms(start_ns: int | None, end_ns: int | None) -> int | None:
    """Return the time between two times; 0 if clocks that differ put them in the wrong order."""
    return None if start_ns is None or end_ns is None else max(end_ns - start_ns, 0) // 1_000_000


def _text(data: bytes | None) -> str:
    """Return an excerpt as text that PostgreSQL stores: no NUL, no half characters."""
    return (data or b"").decode("utf-8", "replace").replace("\0", "\ufffd")

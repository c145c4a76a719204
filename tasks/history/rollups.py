"""Count runs and sample backlogs by minute and by hour, so that charts need not read runs.

Durations are counted in histograms of sparse buckets, two for each doubling.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.db import connection
from django.db.models import DateTimeField, JSONField

from queues.catalog import QueueCatalog
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.states import FAILURES, RunOutcome
from tasks.history import failure_counts
from tasks.history.rows import QueueIdentity, RunRow
from tasks.models import QueueHour, QueueMinute, QueueRollup
from tasks.transactions import store_or_drop

MINUTE_S, HOUR_S = 60, 3600
ROLLUPS: tuple[tuple[type[QueueRollup], int], ...] = ((QueueMinute, MINUTE_S), (QueueHour, HOUR_S))
_OUTCOMES = tuple(outcome.value for outcome in RunOutcome)
_COUNTS = ("enqueued", "started", *_OUTCOMES, *failure_counts.FIELDS, "dropped", "wait_sum_ms", "run_sum_ms")
_HISTOGRAMS = ("wait_histogram", "run_histogram")
_SUMMED = (*_COUNTS, *_HISTOGRAMS)
_NOTHING: Sequence[Any] = (*([0] * len(_COUNTS)), *({} for _ in _HISTOGRAMS))
# As long as minutes are kept (`retention.MINUTES_KEPT`): older ones have been deleted.
_OLDEST_ENQUEUED = timedelta(days=90)

# The SQL is built once. Django would build it in each transaction, with an instance of the model for each row, while
# other writers wait.
_WRITTEN = ("redis_queue", "start", "queue", *_SUMMED)
_MARKS = f"({', '.join(['%s'] * len(_WRITTEN))})"
_INSERT = {model: f'INSERT INTO "{model._meta.db_table}" ({", ".join(_WRITTEN)}) VALUES ' for model, _ in ROLLUPS}  # noqa: S608
_UPDATE = f" ON CONFLICT (redis_queue, start) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in _WRITTEN[2:])}"
_ROWS_PER_STATEMENT = 500
_START, _HISTOGRAM = DateTimeField(), JSONField()
log = structlog.get_logger(__name__)

SparseHistogram = dict[str, list[int]]
"""By bucket number: how many durations, the shortest and the longest of them in ms. The numbers are texts, because JSON
has no other keys."""

BUCKET_COUNT = 60
"""The last bucket has everything above 2 ** 29 ms, some six days."""


@dataclass(slots=True)
class RollupDelta:
    """What is added to one interval of a Redis queue's rollup."""

    queue: str
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    wait_histogram: SparseHistogram = field(default_factory=dict)
    run_histogram: SparseHistogram = field(default_factory=dict)

    def add_end(self, run: RunRow) -> None:
        self.counts[run.outcome] += 1
        is_failure = run.outcome in FAILURES
        if run.is_first:
            self.counts["first_ended"] += 1
            self.counts["first_failed"] += is_failure
        if run.is_final:
            self.counts["tasks_ended"] += 1
            self.counts["tasks_failed"] += is_failure
        if run.wait_ms is not None:
            self.counts["wait_sum_ms"] += run.wait_ms
            add_to_histogram(self.wait_histogram, run.wait_ms)
        if run.run_ms is not None:
            self.counts["run_sum_ms"] += run.run_ms
            add_to_histogram(self.run_histogram, run.run_ms)

    def add(self, other: RollupDelta) -> None:
        for name, count in other.counts.items():
            self.counts[name] += count
        self.wait_histogram = merge_histograms((self.wait_histogram, other.wait_histogram))
        self.run_histogram = merge_histograms((self.run_histogram, other.run_histogram))


RollupDeltas = dict[tuple[str, datetime], RollupDelta]
"""By Redis queue and the start of the minute."""


def add_to_rollups(minutes: RollupDeltas) -> None:
    """Add to the minutes and hours of Redis queues. The caller has locked the rows of their streams."""
    for model, interval_s in ROLLUPS:
        _add_to_table(model, _regroup(minutes, interval_s))


def _add_to_table(model: type[QueueRollup], deltas: RollupDeltas) -> None:
    # No other process changes the counts of these rows in between: the caller holds the locks of the streams.
    rows = model._default_manager.filter(
        redis_queue__in={queue for queue, _ in deltas}, start__in={start for _, start in deltas}
    )
    found = {(queue, start): values for queue, start, *values in rows.values_list("redis_queue", "start", *_SUMMED)}
    keys = sorted(deltas)  # the same order in all processes, so that they never deadlock
    with connection.cursor() as cursor:
        for at in range(0, len(keys), _ROWS_PER_STATEMENT):
            part = keys[at : at + _ROWS_PER_STATEMENT]
            values = [value for key in part for value in _values(key, deltas[key], found.get(key, _NOTHING))]
            cursor.execute(f"{_INSERT[model]}{', '.join([_MARKS] * len(part))}{_UPDATE}", values)


def _values(key: tuple[str, datetime], delta: RollupDelta, found: Sequence[Any]) -> Sequence[Any]:
    """Return the values of a row, in the form for the database: those of the existing row plus the delta."""
    *counts, wait_histogram, run_histogram = found
    histograms = (
        merge_histograms((wait_histogram, delta.wait_histogram)),
        merge_histograms((run_histogram, delta.run_histogram)),
    )
    return (
        key[0],
        _START.get_db_prep_save(key[1], connection),
        delta.queue,
        *(count + delta.counts.get(name, 0) for name, count in zip(_COUNTS, counts, strict=True)),
        *(_HISTOGRAM.get_db_prep_save(histogram, connection) for histogram in histograms),
    )


def _regroup(minutes: RollupDeltas, interval_s: int) -> RollupDeltas:
    if interval_s == MINUTE_S:
        return minutes
    grouped: RollupDeltas = {}
    for (redis_queue, minute), delta in minutes.items():
        key = redis_queue, floor_time(minute, interval_s)
        grouped.setdefault(key, RollupDelta(delta.queue)).add(delta)
    return grouped


def floor_time(time: datetime, interval_s: int) -> datetime:
    """Return the start of the interval that contains a time. Intervals are counted from 1970."""
    return datetime.fromtimestamp(math.floor(time.timestamp()) // interval_s * interval_s, UTC)


def sum_up(runs: Iterable[RunRow]) -> RollupDeltas:
    """Return what runs add to the minutes in which they were enqueued, started and ended."""
    deltas: dict[tuple[str, int], RollupDelta] = {}

    def of_minute(run: RunRow, time: datetime) -> RollupDelta:
        key = run.redis_queue, int(time.timestamp()) // MINUTE_S
        return deltas.get(key) or deltas.setdefault(key, RollupDelta(run.queue))

    for run in runs:
        of_minute(run, run.ended_at).add_end(run)
        if run.started_at is not None:
            of_minute(run, run.started_at).counts["started"] += 1
        if run.is_first and run.enqueued_at is not None and run.ended_at - run.enqueued_at < _OLDEST_ENQUEUED:
            of_minute(run, run.enqueued_at).counts["enqueued"] += 1
    return {
        (redis_queue, datetime.fromtimestamp(minute * MINUTE_S, UTC)): delta
        for (redis_queue, minute), delta in deltas.items()
    }


def bucket_of(duration_ms: float) -> str:
    """Return the bucket of a duration. Bucket 0 ends at 1 ms, bucket n at 2 ** (n / 2) ms, inclusive."""
    if duration_ms <= 1:
        return "0"
    return str(min(math.ceil(2 * math.log2(duration_ms)), BUCKET_COUNT - 1))


def add_to_histogram(histogram: SparseHistogram, duration_ms: int, count: int = 1) -> None:
    _add_to_bucket(histogram, bucket_of(duration_ms), (count, duration_ms, duration_ms))


def _add_to_bucket(histogram: SparseHistogram, bucket: str, added: Sequence[int]) -> None:
    count, shortest, longest = added
    if found := histogram.get(bucket):
        histogram[bucket] = [found[0] + count, min(found[1], shortest), max(found[2], longest)]
    else:
        histogram[bucket] = [count, shortest, longest]


def merge_histograms(histograms: Iterable[Mapping[str, Sequence[int]]]) -> SparseHistogram:
    total: SparseHistogram = {}
    for histogram in histograms:
        for bucket, added in histogram.items():
            _add_to_bucket(total, bucket, added)
    return total


def percentile_ms(histogram: Mapping[str, Sequence[int]], fraction: float) -> float | None:
    """Return the duration that this fraction of runs did not exceed, None without runs.

    It is interpolated between the shortest and the longest duration of its bucket.
    """
    rank = fraction * sum(count for count, _, _ in histogram.values())
    seen = 0
    for _, (count, shortest, longest) in sorted((int(bucket), values) for bucket, values in histogram.items()):
        if seen + count >= rank:
            return shortest + (longest - shortest) * max(rank - seen, 0) / count
        seen += count
    return None


SLICE = 100
"""The number of samples that a transaction stores."""

_SAMPLES = ("backlog", "backlog_max", "oldest_ms")


@dataclass(slots=True)
class RunSampler:
    """Samples all Redis queues in one round trip. Queues that stay empty are not written."""

    _had_backlog: set[str] = field(default_factory=set)

    def sample_all(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> None:
        """Record a sample of these queues. Raise BrokerUnavailable, DatabaseError."""
        if not queues:
            return
        now_ns = broker.now_ns()
        counts = [count for count in broker.run(count_tasks(queues, now_ns=now_ns)) if self._is_recorded(count)]
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        counts.sort(key=lambda count: count.queue)  # the same order in all processes, so that they never deadlock
        for model, interval_s in ROLLUPS:
            for at in range(0, len(counts), SLICE):
                part = counts[at : at + SLICE]
                store_or_drop(part, partial(_store_samples, model, floor_time(now, interval_s), catalog), _log_refused)
        self._had_backlog.difference_update(queues)
        self._had_backlog.update(count.queue for count in counts if count.pending)

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


def _log_refused(count: QueueCounts, error: Exception) -> None:
    log.warning("sample_not_stored", queue=count.queue, error=str(error))

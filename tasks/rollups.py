"""Count runs by minute and by hour, so that charts need not read runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.db.models import DateTimeField, JSONField

from runqy.broker.states import RunOutcome
from tasks.histograms import SparseHistogram, add, bucket_of, merge
from tasks.models import QueueHour, QueueMinute, QueueRollup

if TYPE_CHECKING:
    from tasks.run_rows import RunRow

MINUTE_S, HOUR_S = 60, 3600
ROLLUPS: tuple[tuple[type[QueueRollup], int], ...] = ((QueueMinute, MINUTE_S), (QueueHour, HOUR_S))
_COUNTS = ("enqueued", "started", *(outcome.value for outcome in RunOutcome), "dropped", "wait_sum_ms", "run_sum_ms")
_HISTOGRAMS = ("wait_histogram", "run_histogram")
_SUMMED = (*_COUNTS, *_HISTOGRAMS)
_NOTHING: Sequence[Any] = (*([0] * len(_COUNTS)), *({} for _ in _HISTOGRAMS))
# As long as minutes are kept (`run_retention.MINUTES_KEPT`): older ones have been deleted.
_OLDEST_ENQUEUED = timedelta(days=90)

# The SQL is built once. Django would build it in each transaction, with an instance of the model for each row, while
# other writers wait.
_WRITTEN = ("redis_queue", "start", "queue", *_SUMMED)
_MARKS = f"({', '.join(['%s'] * len(_WRITTEN))})"
_INSERT = {model: f'INSERT INTO "{model._meta.db_table}" ({", ".join(_WRITTEN)}) VALUES ' for model, _ in ROLLUPS}  # noqa: S608
_UPDATE = f" ON CONFLICT (redis_queue, start) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in _WRITTEN[2:])}"
_ROWS_PER_STATEMENT = 500
_START, _HISTOGRAM = DateTimeField(), JSONField()


@dataclass(slots=True)
class RollupDelta:
    """What is added to one interval of a Redis queue's rollup."""

    queue: str
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    wait_histogram: SparseHistogram = field(default_factory=dict)
    run_histogram: SparseHistogram = field(default_factory=dict)

    def add_end(self, run: RunRow) -> None:
        self.counts[run.outcome] += 1
        if run.wait_ms is not None:
            self.counts["wait_sum_ms"] += run.wait_ms
            add(self.wait_histogram, bucket_of(run.wait_ms))
        if run.run_ms is not None:
            self.counts["run_sum_ms"] += run.run_ms
            add(self.run_histogram, bucket_of(run.run_ms))

    def add(self, other: RollupDelta) -> None:
        for name, count in other.counts.items():
            self.counts[name] += count
        self.wait_histogram = merge((self.wait_histogram, other.wait_histogram))
        self.run_histogram = merge((self.run_histogram, other.run_histogram))


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
    histograms = merge((wait_histogram, delta.wait_histogram)), merge((run_histogram, delta.run_histogram))
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

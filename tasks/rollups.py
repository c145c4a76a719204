"""Counts of runs by minute and by hour, so that charts need no runs."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from runqy.broker.states import RunOutcome
from tasks.histograms import SparseHistogram, add, bucket_of, merge
from tasks.models import QueueHour, QueueMinute, QueueRollup, TaskRun

MINUTE_S, HOUR_S = 60, 3600
ROLLUPS: tuple[tuple[type[QueueRollup], int], ...] = ((QueueMinute, MINUTE_S), (QueueHour, HOUR_S))
_COUNTS = ("enqueued", "started", *(outcome.value for outcome in RunOutcome), "dropped", "wait_sum_ms", "run_sum_ms")
_HISTOGRAMS = ("wait_histogram", "run_histogram")


@dataclass(slots=True)
class RollupDelta:
    """What is added to one interval of a rollup."""

    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    wait_histogram: SparseHistogram = field(default_factory=dict)
    run_histogram: SparseHistogram = field(default_factory=dict)

    def add_end(self, run: TaskRun) -> None:
        self.counts[run.outcome] += 1
        if run.wait_ms is not None:
            self.counts["wait_sum_ms"] += run.wait_ms
            add(self.wait_histogram, bucket_of(run.wait_ms))
        if run.run_ms is not None:
            self.counts["run_sum_ms"] += run.run_ms
            add(self.run_histogram, bucket_of(run.run_ms))


RollupDeltas = dict[datetime, RollupDelta]
"""By the start of the minute."""


def add_to_rollups(minutes: RollupDeltas, *, queue: str, redis_queue: str) -> None:
    """Add to the minutes and hours of a Redis queue, whose stream's row the caller has locked."""
    for model, interval_s in ROLLUPS:
        _add_to_table(model, _regroup(minutes, interval_s), queue=queue, redis_queue=redis_queue)


def _add_to_table(model: type[QueueRollup], deltas: RollupDeltas, *, queue: str, redis_queue: str) -> None:
    """Insert the rows of intervals, or add to those that exist."""
    table = model._default_manager
    found = {row.start: row for row in table.filter(redis_queue=redis_queue, start__in=list(deltas))}
    table.bulk_create(
        [
            _add(model(redis_queue=redis_queue, queue=queue, start=start), found.get(start), delta)
            for start, delta in deltas.items()
        ],
        update_conflicts=True,
        unique_fields=["redis_queue", "start"],
        update_fields=["queue", *_COUNTS, *_HISTOGRAMS],
    )


def _add(total: QueueRollup, row: QueueRollup | None, delta: RollupDelta) -> QueueRollup:
    """Return `total`, an empty row, with the counts of the existing row and what is added."""
    row = row or total
    for name in _COUNTS:
        setattr(total, name, getattr(row, name) + delta.counts.get(name, 0))
    total.wait_histogram = merge((row.wait_histogram, delta.wait_histogram))
    total.run_histogram = merge((row.run_histogram, delta.run_histogram))
    return total


def _regroup(minutes: RollupDeltas, interval_s: int) -> RollupDeltas:
    """Return the sums of minutes by longer intervals."""
    if interval_s == MINUTE_S:
        return minutes
    grouped: defaultdict[datetime, RollupDelta] = defaultdict(RollupDelta)
    for minute, delta in minutes.items():
        total = grouped[floor_time(minute, interval_s)]
        for name, count in delta.counts.items():
            total.counts[name] += count
        total.wait_histogram = merge((total.wait_histogram, delta.wait_histogram))
        total.run_histogram = merge((total.run_histogram, delta.run_histogram))
    return dict(grouped)


def floor_time(time: datetime, interval_s: int) -> datetime:
    """Return the start of the interval that holds a time; intervals are counted from 1970."""
    return datetime.fromtimestamp(math.floor(time.timestamp()) // interval_s * interval_s, UTC)


def sum_up(rows: Iterable[TaskRun]) -> RollupDeltas:
    """Return what runs add to the minutes in which they were enqueued, started and ended."""
    minutes: defaultdict[datetime, RollupDelta] = defaultdict(RollupDelta)
    for row in rows:
        minutes[floor_time(row.ended_at, MINUTE_S)].add_end(row)
        if row.started_at is not None:
            minutes[floor_time(row.started_at, MINUTE_S)].counts["started"] += 1
        is_first = row.attempt == 1 or (row.attempt == 0 and row.is_final)
        if is_first and row.enqueued_at is not None and row.ended_at - row.enqueued_at < timedelta(days=90):
            minutes[floor_time(row.enqueued_at, MINUTE_S)].counts["enqueued"] += 1
    return dict(minutes)

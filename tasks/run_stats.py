"""Read the statistics of queues over time, by queue or in total."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import QuerySet

from queues.catalog import AllowedQueues
from runqy.broker.states import FAILURES, RunOutcome
from tasks.histograms import SparseHistogram, add, percentile_ms
from tasks.models import QueueHour, QueueMinute, QueueRollup
from tasks.rollups import HOUR_S, floor_time

_CHUNK = 2000
"""The number of rows that are read at once."""


@dataclass(slots=True, kw_only=True)
class StatsPoint:
    """Statistics of one or more queues in one interval."""

    start: datetime
    enqueued: int = 0
    """Tasks enqueued in the interval whose first attempt has ended."""
    started: int = 0
    outcomes: dict[RunOutcome, int] = field(default_factory=lambda: dict.fromkeys(RunOutcome, 0))
    dropped: int = 0
    wait_sum_ms: int = 0
    run_sum_ms: int = 0
    wait_histogram: SparseHistogram = field(default_factory=dict)
    run_histogram: SparseHistogram = field(default_factory=dict)
    backlog: int | None = None
    """Pending tasks at the last sample of each Redis queue; None: no sample."""
    backlog_max: int | None = None
    oldest_ms: int | None = None

    @property
    def ended(self) -> int:
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Return the sum of all outcomes in FAILURES."""
        return sum(self.outcomes[outcome] for outcome in FAILURES)

    def wait_percentile_ms(self, fraction: float) -> float | None:
        return percentile_ms(self.wait_histogram, fraction)

    def run_percentile_ms(self, fraction: float) -> float | None:
        return percentile_ms(self.run_histogram, fraction)


def get_stats(  # noqa: PLR0913 (an interval, and which queues)
    *,
    start: datetime,
    end: datetime,
    step_s: int,
    queue: str = "",
    redis_queue: str = "",
    allowed_queues: AllowedQueues = None,
) -> list[StatsPoint]:
    """Return the statistics of a queue, of one Redis queue, or of all, in steps of whole minutes.

    Intervals without runs have zeros. The first interval contains `start`, the last one ends at `end` or later. Steps
    of whole hours are read from the rollups by hour.
    """
    rows = _find_rollups(start, end, step_s, allowed_queues)
    if queue:
        rows = rows.filter(queue=queue)
    if redis_queue:
        rows = rows.filter(redis_queue=redis_queue)
    return _sum_by_step(rows.iterator(chunk_size=_CHUNK), start=start, end=end, step_s=step_s)


def get_stats_by_queue(
    *,
    start: datetime,
    end: datetime,
    step_s: int,
    allowed_queues: AllowedQueues = None,
    without_backlog: Collection[str] = (),
) -> dict[str, list[StatsPoint]]:
    """Return the statistics of each queue that has any, in one query.

    The backlogs of the Redis queues in `without_backlog` are left out.
    """
    by_queue: defaultdict[str, list[QueueRollup]] = defaultdict(list)
    for row in _find_rollups(start, end, step_s, allowed_queues).iterator(chunk_size=_CHUNK):
        if row.redis_queue in without_backlog:
            row.backlog = row.backlog_max = None
        by_queue[row.queue].append(row)
    return {name: _sum_by_step(rows, start=start, end=end, step_s=step_s) for name, rows in by_queue.items()}


def _find_rollups(start: datetime, end: datetime, step_s: int, allowed_queues: AllowedQueues) -> QuerySet[QueueRollup]:
    model: type[QueueRollup] = QueueMinute if step_s % HOUR_S else QueueHour
    first = floor_time(start, step_s)
    rows = model._default_manager.filter(start__gte=first, start__lt=end)
    if allowed_queues is not None:
        rows = rows.filter(queue__in=allowed_queues)
    return rows.order_by("start")


def _sum_by_step(rows: Iterable[QueueRollup], *, start: datetime, end: datetime, step_s: int) -> list[StatsPoint]:
    """Return a point for each step, with the sums of the rows, which must be ordered by time."""
    points: dict[datetime, StatsPoint] = {}
    at = floor_time(start, step_s)
    while at < end:
        points[at] = StatsPoint(start=at)
        at += timedelta(seconds=step_s)
    backlogs: defaultdict[datetime, dict[str, int]] = defaultdict(dict)
    peaks: defaultdict[datetime, dict[str, int]] = defaultdict(dict)
    for row in rows:
        step = floor_time(row.start, step_s)
        point = points[step]
        _add_counts(point, row)
        if row.backlog is not None:
            backlogs[step][row.redis_queue] = row.backlog  # the last sample of the step remains
        if row.backlog_max is not None:
            peaks[step][row.redis_queue] = max(row.backlog_max, peaks[step].get(row.redis_queue, 0))
        if row.oldest_ms is not None:
            point.oldest_ms = max(row.oldest_ms, point.oldest_ms or 0)
    for step, by_queue in backlogs.items():
        points[step].backlog = sum(by_queue.values())
    for step, by_queue in peaks.items():
        points[step].backlog_max = sum(by_queue.values())
    return list(points.values())


def _add_counts(point: StatsPoint, row: QueueRollup) -> None:
    point.enqueued += row.enqueued
    point.started += row.started
    point.dropped += row.dropped
    point.wait_sum_ms += row.wait_sum_ms
    point.run_sum_ms += row.run_sum_ms
    for outcome in RunOutcome:
        point.outcomes[outcome] += getattr(row, outcome.value)
    for total, added in ((point.wait_histogram, row.wait_histogram), (point.run_histogram, row.run_histogram)):
        for bucket, count in added.items():
            add(total, bucket, count)

"""Read the statistics of queues over time, and which queues failed most in the last hour and why."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import F, QuerySet, Sum, Value

from queues.catalog import AllowedQueues
from runqy import clock
from runqy.admin_site.page_cache import get_or_read
from runqy.broker.states import FAILURES, RunOutcome
from tasks.history.failure_counts import FIELDS, NO_FAILURES, FailureCounts
from tasks.history.queries import RunFilter, filter_runs
from tasks.history.rollups import HOUR_S, MINUTE_S, SparseHistogram, floor_time, merge_histograms, percentile_ms
from tasks.models import QueueHour, QueueMinute, QueueRollup

CACHE_S = 5.0
"""How long pages share one reading of the counts."""
MAX_QUEUES = 5
SPAN = timedelta(hours=1)
SUMS = {f"sum_of_{name}": Sum(name) for name in FIELDS}
"""Annotations, which `read_sums` reads."""
_SAMPLE = 200
"""The number of newest failures that show why a queue fails."""
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
    failures: FailureCounts = NO_FAILURES
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
    point.failures += FailureCounts(**{name: getattr(row, name) for name in FIELDS})
    for outcome in RunOutcome:
        point.outcomes[outcome] += getattr(row, outcome.value)
    point.wait_histogram = merge_histograms((point.wait_histogram, row.wait_histogram))
    point.run_histogram = merge_histograms((point.run_histogram, row.run_histogram))


@dataclass(frozen=True, slots=True, kw_only=True)
class LastHour:
    """The attempts that ended in the last hour, from the start of its first minute."""

    since: datetime
    completed: Mapping[str, int]
    """By queue."""
    failed: Mapping[str, int]
    """By queue: all outcomes of FAILURES."""
    ended: Mapping[str, int]
    """By queue: all outcomes."""
    failures: Mapping[str, FailureCounts]
    """By queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingQueue:
    """A queue with failed attempts."""

    name: str
    failed: int
    ended: int
    failures: FailureCounts
    reason: str
    """The most frequent error among the newest failures; empty if it is unknown."""
    fingerprint: str


def read_last_hour() -> LastHour:
    """Return the attempts of the last hour, from the counts that charts use."""
    return get_or_read("last_hour", LastHour, _count_last_hour, max_age_s=CACHE_S)


def list_failing_queues() -> list[FailingQueue]:
    """Return the queues with the most failed attempts in the last hour, most first."""
    return get_or_read("last_hour:failing", list[FailingQueue], _find_failing, max_age_s=CACHE_S)


def _count_last_hour() -> LastHour:
    since = floor_time(datetime.fromtimestamp(clock.now_ns() / 1e9, UTC) - SPAN, MINUTE_S)
    rows = list(
        QueueMinute.objects.filter(start__gte=since)
        .values("queue")
        .annotate(successes=Sum("completed"), failures=_sum(FAILURES), runs=_sum(RunOutcome), **SUMS)
    )
    return LastHour(
        since=since,
        completed={row["queue"]: row["successes"] for row in rows},
        failed={row["queue"]: row["failures"] for row in rows if row["failures"]},
        ended={row["queue"]: row["runs"] for row in rows},
        failures={row["queue"]: read_sums(row) for row in rows},
    )


def _find_failing() -> list[FailingQueue]:
    hour = read_last_hour()
    by_failures = sorted(hour.failed.items(), key=lambda item: (-item[1], item[0]))
    return [_failing_queue(name, failed, hour) for name, failed in by_failures[:MAX_QUEUES]]


def read_sums(row: Mapping[str, Any]) -> FailureCounts:
    return FailureCounts(**{name: row[f"sum_of_{name}"] for name in FIELDS})


def _sum(outcomes: Iterable[RunOutcome]) -> Any:
    return sum((Sum(F(outcome.value)) for outcome in outcomes), start=Value(0))


def _failing_queue(name: str, failed: int, hour: LastHour) -> FailingQueue:
    fingerprint, reason = _find_reason(_newest_errors(name, hour.since))
    return FailingQueue(
        name=name,
        failed=failed,
        ended=hour.ended[name],
        failures=hour.failures[name],
        reason=reason,
        fingerprint=fingerprint,
    )


def _newest_errors(queue: str, since: datetime) -> Iterable[tuple[str | None, str, str]]:
    """Return fingerprint, class and message of each of the newest failures of a queue."""
    failures = filter_runs(RunFilter(queue=queue, outcomes=frozenset(FAILURES), since=since))
    return failures.order_by("-ended_at", "-id").values_list("fingerprint", "error_class", "error_message")[:_SAMPLE]


def _find_reason(errors: Iterable[tuple[str | None, str, str]]) -> tuple[str, str]:
    """Return the fingerprint of the most frequent error and its newest text; both empty if there are no errors."""
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for fingerprint, error_class, message in errors:
        if fingerprint:
            counts[fingerprint] += 1
            texts.setdefault(fingerprint, f"{error_class}: {message}" if error_class else message)
    return next(((fingerprint, texts[fingerprint]) for fingerprint, _ in counts.most_common(1)), ("", ""))

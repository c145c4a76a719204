"""What queues did in the last minutes: how their backlogs change, and how many attempts started and failed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from typing import Any

from django.db.models import F, Min, Q, Subquery, Sum

from queues.health import describe_trend
from runqy import clock
from runqy.broker.states import FAILURES, RunOutcome
from tasks.history.failure_counts import FIELDS, NO_FAILURES, FailureCounts
from tasks.history.stats import read_sums
from tasks.models import QueueMinute

SPAN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentCounts:
    """A queue in the last minutes."""

    backlog: int = 0
    """The pending tasks at the samples."""
    started: int = 0
    """Attempts."""
    failed: int = 0
    failures: FailureCounts = NO_FAILURES


NO_COUNTS = RecentCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentHistory:
    """The last minutes of all queues. Others than `by_queue` did nothing."""

    by_queue: Mapping[str, RecentCounts]
    since: datetime
    """The start of the minute from which attempts are counted, until now."""
    sampled_at: datetime | None
    """When all backlogs were sampled, so that their changes add up to the change of the total; None: not lately. Queues
    that are not in `by_queue` had no pending tasks then, since empty queues are not sampled."""

    @property
    def total_backlog(self) -> int:
        """The pending tasks of all queues at the samples, including those without a definition."""
        return sum(counts.backlog for counts in self.by_queue.values())

    @property
    def backlog_age_min(self) -> float:
        """The age of the samples, at least one minute."""
        return _minutes_since(self.sampled_at or _now())

    def per_minute(self, count: int) -> float:
        """Return how many a minute there were of what was counted since `since`."""
        return count / _minutes_since(self.since)

    def describe_trend(self, queue: str, pending: int) -> str:
        """Return how the backlog of a queue has changed since the samples, such as `shrinks 120/min`."""
        return self._describe(self.by_queue.get(queue, NO_COUNTS).backlog, pending)

    def describe_total_trend(self, pending: int) -> str:
        """Return how the backlog of all queues has changed since the samples, and how old those are."""
        trend = self._describe(self.total_backlog, pending)
        return f"{trend} over\N{NO-BREAK SPACE}{self.backlog_age_min:.0f}\N{NO-BREAK SPACE}min" if trend else ""

    def _describe(self, before: int, pending: int) -> str:
        return describe_trend(before, pending, self.backlog_age_min) if self.sampled_at else ""


def read_recent_history() -> RecentHistory:
    """Return what all queues did in SPAN, in one query."""
    minute = _now().replace(second=0, microsecond=0)
    since = minute - SPAN + timedelta(minutes=1)
    # One run of the sampler records all queues, so that a minute with any samples has all of them.
    sampled = Q(backlog__isnull=False, start__lt=minute)
    rows_in_span = QueueMinute.objects.filter(start__gte=minute - SPAN)
    first = Subquery(rows_in_span.filter(sampled).order_by("start").values("start")[:1])
    counted = Q(start__gte=since)
    rows = list(
        rows_in_span.values("queue").annotate(
            first_sample=Min("start", filter=sampled),
            sampled_backlog=Sum("backlog", filter=Q(start=first), default=0),
            starts=Sum("started", filter=counted, default=0),
            failures=Sum(_add(FAILURES), filter=counted, default=0),
            **{f"sum_of_{name}": Sum(name, filter=counted, default=0) for name in FIELDS},
        )
    )
    samples = [row["first_sample"] for row in rows if row["first_sample"] is not None]
    return RecentHistory(
        by_queue={
            row["queue"]: RecentCounts(
                backlog=row["sampled_backlog"], started=row["starts"], failed=row["failures"], failures=read_sums(row)
            )
            for row in rows
        },
        since=since,
        sampled_at=min(samples) + timedelta(minutes=1) if samples else None,
    )


def _add(outcomes: Iterable[RunOutcome]) -> Any:
    return reduce(add, (F(outcome.value) for outcome in outcomes))


def _minutes_since(time: datetime) -> float:
    return max((_now() - time).total_seconds() / 60, 1)


def _now() -> datetime:
    return datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)

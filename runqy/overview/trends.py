"""Whether backlogs grow or shrink, according to the samples of the last minutes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Subquery, Sum

from runqy import clock
from runqy.admin_site.page_cache import get_or_read
from tasks.models import QueueMinute

CACHE_S = 10.0
"""How long pages share the samples."""
SPAN = timedelta(minutes=5)
_STEADY = 0.01
"""A backlog that changes by less than this part of it per minute is steady."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogSamples:
    """The pending tasks of all queues at the same time, so that their changes add up to the change of the total."""

    at: datetime
    by_queue: Mapping[str, int]
    """Other queues had no pending tasks, since empty queues are not sampled."""

    @property
    def total(self) -> int:
        """The pending tasks of all queues, including those without a definition."""
        return sum(self.by_queue.values())

    @property
    def age_min(self) -> float:
        """The age of the samples, at least one minute."""
        return max((_now() - self.at).total_seconds() / 60, 1)

    def describe_trend(self, queue: str, pending: int) -> str:
        """Return how the backlog of a queue has changed since the samples, such as `shrinks 120/min`."""
        return _describe(self.by_queue.get(queue, 0), pending, self.age_min)

    def describe_total_trend(self, pending: int) -> str:
        """Return how the backlog of all queues has changed since the samples, and how old those are."""
        trend = _describe(self.total, pending, self.age_min)
        return f"{trend} over\N{NO-BREAK SPACE}{self.age_min:.0f}\N{NO-BREAK SPACE}min" if trend else ""


def read_samples() -> BacklogSamples | None:
    """Return the oldest samples in SPAN, to compare current counts with; None if there are none."""
    return get_or_read("overview:samples", BacklogSamples | None, _read, max_age_s=CACHE_S)


def _describe(before: int, pending: int, minutes: float) -> str:
    """Return the change per minute; empty if nothing was or is pending."""
    if not before and not pending:
        return ""
    per_minute = (pending - before) / minutes
    if abs(per_minute) < max(_STEADY * max(pending, before), 0.5):
        return "steady"
    return f"{'grows' if per_minute > 0 else 'shrinks'} {round(abs(per_minute)):,}/min"


def _read() -> BacklogSamples | None:
    # One run of the sampler records all queues, so that a minute with any samples has all of them.
    minute = _now().replace(second=0, microsecond=0)
    sampled = QueueMinute.objects.filter(backlog__isnull=False, start__gte=minute - SPAN, start__lt=minute)
    first = Subquery(sampled.order_by("start").values("start")[:1])
    rows = list(sampled.filter(start=first).values_list("start", "queue").annotate(Sum("backlog")))
    if not rows:
        return None
    by_queue = {queue: backlog for _, queue, backlog in rows}
    return BacklogSamples(at=rows[0][0] + timedelta(minutes=1), by_queue=by_queue)


def _now() -> datetime:
    return datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)

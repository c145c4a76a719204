"""Whether backlogs grow or shrink, by the samples of the last minutes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Subquery, Sum

from runqy import clock
from runqy.page_cache import get_or_read
from tasks.models import QueueMinute

CACHE_S = 10.0
"""How long overviews share one reading."""
SPAN = timedelta(minutes=5)
_STEADY = 0.01
"""A change a minute below this part of the backlog is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogSamples:
    """The pending tasks of all queues at one time, so that the changes of queues add up to the change of all."""

    at: datetime
    by_queue: Mapping[str, int]
    """Queues that are not in it had no pending tasks: empty queues are not sampled."""

    @property
    def total(self) -> int:
        """Return the pending tasks of all queues, also of those that are not defined."""
        return sum(self.by_queue.values())

    @property
    def age_min(self) -> float:
        """Return how old the samples are, at least one minute."""
        return max((_now() - self.at).total_seconds() / 60, 1)

    def describe_trend(self, queue: str, pending: int) -> str:
        """Return how the backlog of a queue has changed to the present one, such as `shrinks 120/min`."""
        return _describe(self.by_queue.get(queue, 0), pending, self.age_min)

    def describe_total_trend(self, pending: int) -> str:
        """Return how the backlog of all queues has changed, and since when."""
        trend = _describe(self.total, pending, self.age_min)
        return f"{trend} over\N{NO-BREAK SPACE}{self.age_min:.0f}\N{NO-BREAK SPACE}min" if trend else ""


def read_samples() -> BacklogSamples | None:
    """Return the oldest samples of SPAN, which current counts are compared with; None: nothing was sampled."""
    return get_or_read("overview:samples", BacklogSamples | None, _read, max_age_s=CACHE_S)


def _describe(before: int, pending: int, minutes: float) -> str:
    """Return the change a minute; empty if nothing was or is pending."""
    if not before and not pending:
        return ""
    per_minute = (pending - before) / minutes
    if abs(per_minute) < max(_STEADY * max(pending, before), 0.5):
        return "steady"
    return f"{'grows' if per_minute > 0 else 'shrinks'} {round(abs(per_minute)):,}/min"


def _read() -> BacklogSamples | None:
    """Return the samples of the first minute that has any: one pass of the sampler records all queues."""
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

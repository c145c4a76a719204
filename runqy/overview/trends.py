"""Whether backlogs grow or shrink, by the samples of the last minutes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Sum

from runqy import clock
from runqy.shared_values import SharedValues
from tasks.models import QueueMinute

CACHE_S = 10.0
"""How long the overviews of this process share one reading."""
SPAN = timedelta(minutes=5)
_STEADY = 0.01
"""A change a minute below this part of the backlog is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogSample:
    """The pending tasks at a time."""

    at: datetime
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogSamples:
    """The oldest samples of SPAN."""

    total: BacklogSample | None
    """Of all queues; None: not sampled."""
    by_queue: dict[str, BacklogSample]


_samples: SharedValues[None, BacklogSamples] = SharedValues(max_age_s=CACHE_S, max_size=1)


def read_samples() -> BacklogSamples:
    """Return the samples that current counts are compared with."""
    return _samples.get(None, _read)


def clear() -> None:
    """Discard the samples."""
    _samples.clear()


def describe_trend(pending: int, sample: BacklogSample | None) -> str:
    """Return how a backlog has changed since a sample, such as `shrinks 120/min`; empty without one."""
    if sample is None or not pending:
        return ""
    per_minute = (pending - sample.pending) / max((_now() - sample.at).total_seconds() / 60, 1)
    if abs(per_minute) < max(_STEADY * max(pending, sample.pending), 0.5):
        return "steady"
    return f"{'grows' if per_minute > 0 else 'shrinks'} {round(abs(per_minute)):,}/min"


def _read() -> BacklogSamples:
    minute = _now().replace(second=0, microsecond=0)
    rows = QueueMinute.objects.filter(start__gte=minute - SPAN, start__lt=minute, backlog__isnull=False)
    by_queue: dict[str, BacklogSample] = {}
    totals: dict[datetime, int] = {}
    for queue, start, backlog in rows.values_list("queue", "start").annotate(Sum("backlog")).order_by("start"):
        by_queue.setdefault(queue, _sample(start, backlog))
        totals[start] = totals.get(start, 0) + backlog
    total = next((_sample(start, backlog) for start, backlog in totals.items()), None)
    return BacklogSamples(total=total, by_queue=by_queue)


def _sample(start: datetime, pending: int) -> BacklogSample:
    """Return the last sample of a minute."""
    return BacklogSample(at=start + timedelta(minutes=1), pending=pending)


def _now() -> datetime:
    return datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)

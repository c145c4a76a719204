"""A template tag for the recent history of a queue. Templates of apps below load it, since those apps may not import
tasks.
"""

from dataclasses import dataclass
from datetime import timedelta

from django import template
from django.utils import timezone

from runqy.core.formats import durations
from tasks.history.failure_counts import NO_FAILURES, FailureCounts
from tasks.history.stats import get_stats

register = template.Library()

SPAN = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentHistory:
    """What a queue did in the last hour, from the counts that charts use."""

    ended: int
    failed: int
    failures: FailureCounts
    backlog: int | None
    """The number of pending tasks at the beginning of the hour; None: not sampled."""
    backlog_age: str
    """How long ago that sample was taken."""


@register.simple_tag
def recent_history(queue: str) -> RecentHistory:
    """Return the history of a queue in the last hour."""
    now = timezone.now()
    minutes = get_stats(start=now - SPAN, end=now, step_s=60, queue=queue)
    first = next((point for point in minutes if point.backlog is not None), None)
    return RecentHistory(
        ended=sum(point.ended for point in minutes),
        failed=sum(point.failed for point in minutes),
        failures=sum((point.failures for point in minutes), start=NO_FAILURES),
        backlog=first.backlog if first else None,
        backlog_age=durations.humanize((now - first.start).total_seconds()) if first else "",
    )

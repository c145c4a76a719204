"""Reads the errors of the history: groups of failed runs, and how many there are in each queue."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min

from tasks.models import TaskRun
from tasks.run_queries import RunFilter, filter_runs
from tasks.statement_limit import search_limit

MAX_FAILURES = 100_000
"""How many failures are counted in groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failed runs of a queue whose errors have one fingerprint."""

    queue: str
    fingerprint: str
    count: int
    first_seen: datetime
    last_seen: datetime
    sample: TaskRun
    """The newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroupList:
    """The largest groups of errors."""

    groups: list[ErrorGroup]
    counted_after: datetime | None
    """None: all failures that match are counted; else the newest MAX_FAILURES, which ended after this time."""

    @property
    def is_partial(self) -> bool:
        return self.counted_after is not None


def count_failures_by_queue(run_filter: RunFilter, *, counted_after: datetime | None) -> list[tuple[str, int]]:
    """Return the failures in each queue, most first, of those that `list_error_groups` has counted.

    Raise SearchTooSlow.
    """
    failures = filter_runs(run_filter).filter(fingerprint__isnull=False)
    if counted_after is not None:
        failures = failures.filter(ended_at__gt=counted_after)
    counts = failures.values("queue").annotate(count=Count("id")).order_by("-count", "queue")
    with search_limit():
        return [(row["queue"], row["count"]) for row in counts]


def list_error_groups(run_filter: RunFilter, *, limit: int) -> ErrorGroupList:
    """Return the groups of errors among the newest runs that match, the largest first. Raise SearchTooSlow."""
    failures = filter_runs(run_filter).filter(fingerprint__isnull=False)
    with search_limit():
        first_left_out = failures.order_by("-ended_at", "-id").values_list("ended_at", flat=True)[MAX_FAILURES:].first()
        if first_left_out is not None:
            failures = failures.filter(ended_at__gt=first_left_out)
        groups = list(
            failures.values("queue", "fingerprint")
            .annotate(count=Count("id"), first_seen=Min("ended_at"), last_seen=Max("ended_at"), newest=Max("id"))
            .order_by("-count", "queue", "fingerprint")[:limit]
        )
    samples = TaskRun.objects.in_bulk([group["newest"] for group in groups])
    found = [
        ErrorGroup(
            queue=group["queue"],
            fingerprint=group["fingerprint"] or "",
            count=group["count"],
            first_seen=group["first_seen"],
            last_seen=group["last_seen"],
            sample=samples[group["newest"]],
        )
        for group in groups
        if group["newest"] in samples  # not deleted in between
    ]
    return ErrorGroupList(groups=found, counted_after=first_left_out)

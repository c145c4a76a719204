"""Read the errors of the history: groups of failed runs, and their number in each queue."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min

from tasks.models import TaskRun
from tasks.run_queries import RunFilter, filter_runs
from tasks.statement_limit import search_limit

MAX_FAILURES = 100_000
"""The number of failures that are counted in groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failed runs of a queue whose errors have the same fingerprint."""

    queue: str
    fingerprint: str
    count: int
    first_seen: datetime
    last_seen: datetime
    sample: TaskRun
    """The newest run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroupList:
    """The largest groups of errors."""

    groups: list[ErrorGroup]
    counted_after: datetime | None
    """Only failures that ended after this time are counted, MAX_FAILURES at most; None: all that match."""

    @property
    def is_partial(self) -> bool:
        return self.counted_after is not None


def count_failures_by_queue(run_filter: RunFilter, *, counted_after: datetime | None) -> list[tuple[str, int]]:
    """Return the number of failures in each queue, most first, among those that `list_error_groups` counted.

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
        if group["newest"] in samples  # unless it was deleted in between
    ]
    return ErrorGroupList(groups=found, counted_after=first_left_out)

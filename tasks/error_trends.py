"""How often each group of errors occurred over time, and since when a commit has been running."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Count, Exists, FloatField, Func, OuterRef, Q
from django.db.models.functions import Floor

from tasks.error_queries import ErrorGroup
from tasks.models import TaskRun
from tasks.run_queries import RunFilter, filter_runs
from tasks.statement_limit import search_limit

POINTS = 24


class UnixSeconds(Func):
    """A time as Unix seconds, computed in the database."""

    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # 2440587.5 is the Julian day of 1970-01-01.
        return super().as_sql(
            compiler, connection, template="((julianday(%(expressions)s) - 2440587.5) * 86400.0)", **context
        )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return super().as_sql(compiler, connection, template="EXTRACT(EPOCH FROM %(expressions)s)", **context)


def count_over_time(
    groups: Sequence[ErrorGroup], run_filter: RunFilter, *, start: datetime, end: datetime
) -> dict[tuple[str, str], list[int]]:
    """Return the number of errors of each group, by queue and fingerprint, in POINTS equal intervals of a period.

    Raise SearchTooSlow.
    """
    if not groups:
        return {}
    start_s, width_s = int(start.timestamp()), max((end - start).total_seconds() / POINTS, 1)
    wanted = Q(*(Q(queue=group.queue, fingerprint=group.fingerprint) for group in groups), _connector=Q.OR)
    rows = (
        filter_runs(run_filter)
        .filter(wanted, ended_at__gte=start)
        .annotate(point=Floor((UnixSeconds("ended_at") - start_s) / width_s))
        .values("queue", "fingerprint", "point")
        .annotate(count=Count("id"))
    )
    counts = {(group.queue, group.fingerprint): [0] * POINTS for group in groups}
    with search_limit():
        points = list(rows.order_by())
    for row in points:
        # Runs that end while the page is built count in the last interval.
        counts[row["queue"], str(row["fingerprint"])][min(max(int(row["point"]), 0), POINTS - 1)] += row["count"]
    return counts


def find_known_groups(groups: Sequence[ErrorGroup], before: datetime) -> set[tuple[str, str]]:
    """Return those groups, by queue and fingerprint, that occurred before a time."""
    if not groups:
        return set()
    earlier = TaskRun.objects.filter(queue=OuterRef("queue"), fingerprint=OuterRef("fingerprint"), ended_at__lt=before)
    samples = TaskRun.objects.filter(pk__in=[group.sample.pk for group in groups])
    found = samples.filter(Exists(earlier)).values_list("queue", "fingerprint")
    return {(queue, str(fingerprint)) for queue, fingerprint in found}


def find_start_of_commit(commit: str, *, queue: str = "") -> datetime | None:
    """Return when the first run of a commit ended; None if the history has none."""
    runs = TaskRun.objects.filter(commit=commit)
    if queue:
        runs = runs.filter(queue=queue)
    return runs.order_by("ended_at", "id").values_list("ended_at", flat=True).first()

"""Delete runs and statistics that are too old or too many."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from runqy import clock
from tasks.history.fulltext_index import merge_segments
from tasks.models import PrunedRuns, QueueHour, QueueMinute, TaskRun
from tasks.transactions import BatchSize, write_transaction

MINUTES_KEPT, HOURS_KEPT = timedelta(days=90), timedelta(days=730)
TICK_MAX_S = 10.0
"""How long a tick continues while there is more to delete."""


def prune_history() -> int:
    """Delete, in slices, what exceeds the limits of the settings; return how many rows. Raise DatabaseError."""
    now, ends_at_s = timezone.now(), clock.monotonic_s() + TICK_MAX_S
    oldest = now - timedelta(days=settings.RUNQY_HISTORY_DAYS)
    deleted = _delete_runs(TaskRun.objects.filter(ended_at__lte=oldest), "", oldest, ends_at_s)
    for queue in _list_queues():
        if clock.monotonic_s() < ends_at_s:
            deleted += _delete_excess(queue, settings.RUNQY_HISTORY_MAX_ROWS, ends_at_s)
    deleted += _delete(QueueMinute.objects.filter(start__lt=now - MINUTES_KEPT), ends_at_s)
    return deleted + _delete(QueueHour.objects.filter(start__lt=now - HOURS_KEPT), ends_at_s)


def _list_queues() -> Iterator[str]:
    # One short look into the index for each queue: DISTINCT would read the whole index.
    queue = ""
    while (row := TaskRun.objects.filter(queue__gt=queue).order_by("queue").values_list("queue").first()) is not None:
        queue = row[0]
        yield queue


def _delete_excess(queue: str, max_rows: int, ends_at_s: float) -> int:
    runs = TaskRun.objects.filter(queue=queue)
    newest_first = runs.order_by("-ended_at", "-id").values_list("ended_at", "id")
    first_beyond = next(iter(newest_first[max_rows : max_rows + 1]), None)
    if first_beyond is None:
        return 0
    ended_at, row_id = first_beyond
    excess = runs.filter(ended_at__lte=ended_at).filter(Q(ended_at__lt=ended_at) | Q(id__lte=row_id))
    return _delete_runs(excess, queue, ended_at, ends_at_s)


def _delete_runs(runs: QuerySet[TaskRun], queue: str, ended_at: datetime, ends_at_s: float) -> int:
    if not runs.exists():
        return 0
    # Recorded before the rows are deleted: see `store_runs`.
    row, is_new = PrunedRuns.objects.get_or_create(queue=queue, defaults={"ended_at": ended_at})
    if not is_new:
        PrunedRuns.objects.filter(pk=row.pk, ended_at__lt=ended_at).update(ended_at=ended_at)
    return _delete(runs, ends_at_s)


def _delete(rows: "QuerySet[Any]", ends_at_s: float) -> int:
    size, deleted = BatchSize(), 0
    while clock.monotonic_s() < ends_at_s:
        # Each slice is a transaction of its own, so that other writers need not wait.
        limit = size.value
        ids = list(rows.values_list("pk", flat=True)[:limit])
        if ids:
            with write_transaction() as written:
                deleted += rows.filter(pk__in=ids).delete()[0]
            size.adapt(len(ids), written.held_s)
            merge_segments()
        if len(ids) < limit:
            break
    return deleted

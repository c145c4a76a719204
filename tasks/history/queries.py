"""Read the history of runs by filter."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from django.db.models import Exists, OuterRef, Q, QuerySet

from queues.catalog import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.reader import TaskLocation
from runqy.errors import QueueNotFound
from tasks.history.fulltext_index import holds_text
from tasks.models import QueueHour, RunStream, TaskRun
from tasks.transactions import search_limit

_MAX_PARTS = 32
"""SQLite merges this many lists without noticeable cost, and refuses 500."""


class RunOrder(StrEnum):
    """The order of a list of runs."""

    NEWEST = "newest"
    OLDEST = "oldest"
    SLOWEST = "slowest"
    """Only runs with a known duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list. Fields that are empty or None do not limit them."""

    allowed_queues: AllowedQueues = None
    queue: str = ""
    """The name of a queue, including all its sub-queues."""
    redis_queue: str = ""
    outcomes: frozenset[RunOutcome] = frozenset()
    is_final: bool | None = None
    since: datetime | None = None
    """Runs that ended at this time or later."""
    until: datetime | None = None
    """Runs that ended before this time."""
    worker_id: str = ""
    commit: str = ""
    fingerprint: str = ""
    task_id: str = ""
    min_run_ms: int | None = None
    text: str = ""
    """Runs whose payload or error contains each of these terms (`tasks/history/fulltext_index.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCursor:
    """The end of a page of runs."""

    order: RunOrder
    id: int
    ended_at: datetime
    run_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A page of runs."""

    runs: list[TaskRun]
    end: RunCursor | None
    """None: the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """The number of tasks that match."""

    count: int
    is_exact: bool
    """False: there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQueue:
    """What the name of a queue means in the history: a queue with its sub-queues, or one Redis queue."""

    queue: str = ""
    redis_queue: str = ""


def resolve_history_queue(name: str, *, allowed_queues: AllowedQueues = None) -> HistoryQueue:
    """Return what a name, in any spelling, means. Deleted queues that have a history are found too.

    Raise QueueNotFound, ConfigurationUnavailable.
    """
    catalog = get_fresh_catalog()
    queue, resolved = catalog.find_queue(name), catalog.find(name)
    if queue is not None and (allowed_queues is None or queue.name in allowed_queues):
        return HistoryQueue(queue=queue.name)
    is_known = queue is not None or resolved is not None
    if is_known or (allowed_queues is not None and name not in allowed_queues):
        resolved = catalog.resolve(name, allowed_queues=allowed_queues)
        return HistoryQueue(queue=resolved.queue.name, redis_queue=resolved.redis_queue)
    is_storable = "\0" not in name  # PostgreSQL refuses NUL
    if is_storable and RunStream.objects.filter(redis_queue=name).exists():
        return HistoryQueue(redis_queue=name)
    if is_storable and QueueHour.objects.filter(queue=name).exists():
        return HistoryQueue(queue=name)
    raise QueueNotFound(f"No queue {name[:128]!r}, and no history of it.")


def filter_runs(run_filter: RunFilter, *, after: int = 0, through: int | None = None) -> QuerySet[TaskRun]:
    """Return the runs that match, unordered: those with ids greater than `after`, up to and including `through`.

    Raise RequestInvalid.
    """
    f = run_filter
    conditions: dict[str, object] = {
        "queue": f.queue,
        "redis_queue": f.redis_queue,
        "worker_id": f.worker_id,
        "commit": f.commit,
        "fingerprint": f.fingerprint,
        "task_id": f.task_id,
        "ended_at__gte": f.since,
        "ended_at__lt": f.until,
        "is_final": f.is_final,
        "run_ms__gte": f.min_run_ms,
        "pk__gt": after or None,
        "pk__lte": through,
    }
    runs = TaskRun.objects.filter(**{name: value for name, value in conditions.items() if value not in ("", None)})
    if f.allowed_queues is not None:
        runs = runs.filter(queue__in=f.allowed_queues)
    if f.outcomes:
        runs = runs.filter(outcome__in=[outcome.value for outcome in f.outcomes])
    if f.text:
        runs = runs.filter(holds_text(f.text, after=after, through=through))
    return runs


def filter_ended_tasks(run_filter: RunFilter, *, after: int = 0, through: int | None = None) -> QuerySet[TaskRun]:
    """Return those of `filter_runs` that are the newest run of their task and ended it: one for each task.

    A task that has run again since does not match.
    """
    newer = TaskRun.objects.filter(
        task_id=OuterRef("task_id"), redis_queue=OuterRef("redis_queue"), pk__gt=OuterRef("pk")
    )
    return filter_runs(replace(run_filter, is_final=True), after=after, through=through).filter(~Exists(newer))


def count_ended_tasks(run_filter: RunFilter, *, limit: int) -> TaskCount:
    """Count the tasks that ended with a run that matches, up to `limit`. Raise RequestInvalid, SearchTooSlow."""
    with search_limit():
        count = filter_ended_tasks(run_filter)[: limit + 1].count()
    return TaskCount(count=min(count, limit), is_exact=count <= limit)


def list_newest_outcomes(run_filter: RunFilter, *, limit: int) -> list[tuple[RunOutcome, int | None]]:
    """Return outcome and duration in milliseconds of the newest runs that match. Raise SearchTooSlow."""
    with search_limit():
        newest = filter_runs(run_filter).order_by(*_ORDER_BY[RunOrder.NEWEST])
        rows = list(newest.values_list("outcome", "run_ms")[:limit])
    return [(RunOutcome(outcome), run_ms) for outcome, run_ms in rows]


def list_runs(
    run_filter: RunFilter, *, limit: int, order: RunOrder = RunOrder.NEWEST, after: RunCursor | None = None
) -> RunPage:
    """Return a page of the runs that match. Raise RequestInvalid, SearchTooSlow."""
    with search_limit():
        found = list(_in_order(run_filter, order, after)[: limit + 1])
    page = found[:limit]
    return RunPage(runs=page, end=cursor_of(page[-1], order) if len(found) > limit else None)


def _in_order(run_filter: RunFilter, order: RunOrder, after: RunCursor | None = None) -> QuerySet[TaskRun]:
    # The runs of each queue are in order in an index, those of several together are not. The database merges the lists
    # of single queues, rather than sort all runs.
    queues = sorted(run_filter.allowed_queues or ()) if not run_filter.queue else []
    is_split = 1 < len(queues) <= _MAX_PARTS
    parts = [replace(run_filter, queue=queue) for queue in queues] if is_split else [run_filter]
    first, *others = [_select_page(filter_runs(part), order, after) for part in parts]
    return (first.union(*others, all=True) if others else first).order_by(*_ORDER_BY[order])


def _select_page(runs: QuerySet[TaskRun], order: RunOrder, after: RunCursor | None) -> QuerySet[TaskRun]:
    if order is RunOrder.SLOWEST:
        runs = runs.filter(run_ms__isnull=False)
    return runs if after is None else runs.filter(_follows(order, after))


def list_lost_runs(worker_ids: Iterable[str], *, limit: int) -> list[TaskRun]:
    """Return the newest runs that ended because their worker fell silent, without texts."""
    lost = TaskRun.objects.filter(worker_id__in=worker_ids, outcome=RunOutcome.LOST.value)
    return list(lost.only("worker_id", "task_id", "redis_queue", "ended_at").order_by("-ended_at", "-id")[:limit])


def list_task_runs(redis_queue: str, task_id: str) -> list[TaskRun]:
    """Return the stored runs of a task, oldest first."""
    return list(TaskRun.objects.filter(task_id=task_id, redis_queue=redis_queue).order_by("ended_at", "id"))


def find_last_ends(tasks: Iterable[tuple[str, str]]) -> dict[tuple[str, str], TaskRun]:
    """Return the last run that ended each task, without texts, by Redis queue and task id. One query."""
    task_ids = {task_id for _, task_id in tasks}
    ends = TaskRun.objects.filter(task_id__in=task_ids, is_final=True).order_by("ended_at", "id")
    fields = ("task_id", "redis_queue", "outcome", "is_final", "ended_at", "run_ms")
    return {(run.redis_queue, run.task_id): run for run in ends.only(*fields)}


def find_newest_run(task_id: str, redis_queue: str = "") -> TaskRun | None:
    """Return the newest run of a task. Without a Redis queue, return that of any task with this id."""
    if "\0" in redis_queue:
        return None  # PostgreSQL refuses NUL
    runs = TaskRun.objects.filter(task_id=task_id, **({"redis_queue": redis_queue} if redis_queue else {}))
    return runs.order_by("-ended_at", "-id").first()


def find_tasks_with_text(tasks: Iterable[TaskLocation], text: str) -> set[TaskLocation]:
    """Return those tasks that have a stored run that contains a text. Raise RequestInvalid, SearchTooSlow."""
    wanted = set(tasks)
    runs = TaskRun.objects.filter(holds_text(text), task_id__in={task_id for _, task_id in wanted})
    with search_limit():
        return set(runs.values_list("redis_queue", "task_id")) & wanted


def cursor_of(run: TaskRun, order: RunOrder) -> RunCursor:
    return RunCursor(order=order, id=run.pk, ended_at=run.ended_at, run_ms=run.run_ms)


_ORDER_BY: Mapping[RunOrder, tuple[str, str]] = {
    RunOrder.NEWEST: ("-ended_at", "-id"),
    RunOrder.OLDEST: ("ended_at", "id"),
    RunOrder.SLOWEST: ("-run_ms", "-id"),
}


def _follows(order: RunOrder, after: RunCursor) -> Q:
    # The first condition follows from the second. It is there because an index can serve it alone.
    if order is RunOrder.NEWEST:
        return Q(ended_at__lte=after.ended_at) & (Q(ended_at__lt=after.ended_at) | Q(id__lt=after.id))
    if order is RunOrder.OLDEST:
        return Q(ended_at__gte=after.ended_at) & (Q(ended_at__gt=after.ended_at) | Q(id__gt=after.id))
    return Q(run_ms__lte=after.run_ms) & (Q(run_ms__lt=after.run_ms) | Q(id__lt=after.id))

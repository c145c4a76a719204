"""Reads the history of runs by filter."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from heapq import merge
from typing import Any, TypeVar

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL

from queues.catalog import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.reader import TaskLocation
from runqy.errors import QueueNotFound
from tasks.fulltext_index import find_matches, matches_between, select_matching
from tasks.models import QueueHour, RunStream, TaskRun

MAX_CANDIDATES = 5_000
"""How many runs are searched for one page, where no index has all conditions of a filter."""
MAX_SORTED = 10_000
"""How many runs are sorted, where no index has them in the order of a list."""
TEXT_CHUNKS = (1_000, 4_000, 15_000)
"""How many runs are searched at a time, and for one page, for a text that more than MAX_SORTED runs hold."""
_MAX_BRANCHES = 32


class RunOrder(StrEnum):
    """The order of a list of runs."""

    NEWEST = "newest"
    OLDEST = "oldest"
    SLOWEST = "slowest"
    """Only runs whose duration is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; what is empty or None does not limit them."""

    allowed_queues: AllowedQueues = None
    queue: str = ""
    """A queue's own name, with all its sub-queues."""
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
    """Runs whose payload or error holds each of these terms (`tasks/fulltext_index.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCursor:
    """The end of a page of runs."""

    order: RunOrder
    id: int
    ended_at: datetime
    run_ms: int | None


_Ordered = TypeVar("_Ordered", TaskRun, RunCursor)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A page of runs."""

    runs: list[TaskRun]
    end: RunCursor | None
    """None: the last page."""
    is_partial: bool = False
    """The page is not full although runs after `end` may match, which have yet to be searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """How many tasks match."""

    count: int
    is_exact: bool
    """False: there are more, or more may match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQueue:
    """What a queue's name means in the history: a queue with its sub-queues, or one Redis queue."""

    queue: str = ""
    redis_queue: str = ""


def resolve_history_queue(name: str, *, allowed_queues: AllowedQueues = None) -> HistoryQueue:
    """Return what a name means, in any spelling; also of a deleted queue that has a history.

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
    is_storable = "\0" not in name  # PostgreSQL raises an error
    if is_storable and RunStream.objects.filter(redis_queue=name).exists():
        return HistoryQueue(redis_queue=name)
    if is_storable and QueueHour.objects.filter(queue=name).exists():
        return HistoryQueue(queue=name)
    raise QueueNotFound(f"No queue {name[:128]!r}, and no history of it.")


def filter_runs(run_filter: RunFilter, *, after: int = 0, through: int | None = None) -> QuerySet[TaskRun]:
    """Return the runs that match, in no order: those with ids greater than `after`, up to and including `through`.

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
        runs = runs.filter(pk__in=RawSQL(*matches_between(f.text, after=after, through=through)))  # noqa: S611 (parameters)
    return runs


def filter_ended_tasks(run_filter: RunFilter, *, after: int = 0, through: int | None = None) -> QuerySet[TaskRun]:
    """Return of `filter_runs` those that are the newest of their tasks, and ended them: one for each task.

    A task that ran again since does not match.
    """
    newer = TaskRun.objects.filter(
        task_id=OuterRef("task_id"), redis_queue=OuterRef("redis_queue"), pk__gt=OuterRef("pk")
    )
    return filter_runs(replace(run_filter, is_final=True), after=after, through=through).filter(~Exists(newer))


def count_ended_tasks(run_filter: RunFilter, *, limit: int, max_read: int | None = None) -> TaskCount:
    """Count the tasks that ended with a run that matches, up to `limit`. Raise RequestInvalid.

    With `max_read` at most so many runs are read, in bounded time: those that an index of the list or the text finds.
    """
    if max_read is None:
        count = filter_ended_tasks(run_filter)[: limit + 1].count()
        return TaskCount(count=min(count, limit), is_exact=count <= limit)
    outcomes = run_filter.outcomes - {RunOutcome.RETRIED}
    if run_filter.outcomes and not outcomes:
        return TaskCount(count=0, is_exact=True)
    runs, is_all = _read_at_most(replace(run_filter, outcomes=outcomes), max_read)
    count = filter_ended_tasks(replace(run_filter, text="")).filter(pk__in=runs)[: limit + 1].count()
    return TaskCount(count=min(count, limit), is_exact=is_all and count <= limit)


def _read_at_most(f: RunFilter, limit: int) -> tuple[list[int] | QuerySet[TaskRun, int], bool]:
    """Return the ids of up to `limit` runs that an index finds, and whether they are all that it finds."""
    if f.text and (matches := find_matches(f.text, limit=MAX_SORTED)) is not None:
        return matches, True
    runs = _find_by_drivers(_plan_drivers(f))
    if f.text:
        ids = list(runs[: min(limit, MAX_CANDIDATES)])
        return select_matching(f.text, ids), len(ids) < min(limit, MAX_CANDIDATES)
    return runs[:limit], not runs[limit - 1 : limit].exists()


def _find_by_drivers(drivers: Sequence[Mapping[str, object]]) -> QuerySet[TaskRun, int]:
    """Return the ids of the runs that indexes find: the newest first of one, in no order of several, which differ in a
    few values."""
    ids = TaskRun.objects.values_list("pk", flat=True)
    if len(drivers) == 1:
        return ids.filter(**drivers[0]).order_by(*_ORDER_BY[RunOrder.NEWEST])
    conditions: dict[str, object] = {}
    for name, first in drivers[0].items():
        values = {driver[name] for driver in drivers}
        conditions |= {name: first} if len(values) == 1 else {f"{name}__in": sorted(map(str, values))}
    return ids.filter(**conditions)


def list_newest_runs(run_filter: RunFilter, *, limit: int) -> list[TaskRun]:
    """Return the runs that match and ended last, the latest first."""
    return list(_order_by_end(run_filter)[:limit])


def list_newest_outcomes(run_filter: RunFilter, *, limit: int) -> list[tuple[RunOutcome, int | None]]:
    """Return the outcomes and durations in milliseconds of the runs that match and ended last."""
    rows = _order_by_end(run_filter).values_list("outcome", "run_ms")[:limit]
    return [(RunOutcome(outcome), run_ms) for outcome, run_ms in rows]


def _order_by_end(run_filter: RunFilter) -> QuerySet[TaskRun]:
    return filter_runs(run_filter).order_by("-ended_at", "-id")


def list_runs(
    run_filter: RunFilter, *, limit: int, order: RunOrder = RunOrder.NEWEST, after: RunCursor | None = None
) -> RunPage:
    """Return a page of the runs that match, in bounded time. Raise RequestInvalid."""
    plan = plan_search(run_filter, order, after)
    if plan.text:
        return _search_text(plan, run_filter, order, limit=limit)
    found = list(_merge((branch[: limit + 1] for branch in plan.branches), order))
    page = found[:limit]
    if len(found) > limit:
        return RunPage(runs=page, end=cursor_of(page[-1], order))
    if plan.candidates is None:
        return RunPage(runs=page, end=None)
    last = plan.candidates[MAX_CANDIDATES - 1 : MAX_CANDIDATES].first()
    return RunPage(runs=page, end=cursor_of(last, order) if last else None, is_partial=last is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The queries of a list."""

    branches: list[QuerySet[TaskRun]]
    """In order; merged, they are the list."""
    candidates: QuerySet[TaskRun] | None = None
    """The runs of which the first MAX_CANDIDATES are searched; None: all are."""
    text: str = ""
    """A text that so many runs hold that it is checked on those of the candidates, or else of the branches."""


def plan_search(run_filter: RunFilter, order: RunOrder, after: RunCursor | None = None) -> SearchPlan:
    """Return queries that read one index in the order of the list, so that none sorts or reads a whole table.

    Conditions that no index has beside that order are checked on MAX_CANDIDATES runs at a time; a text finds its runs
    in the full-text index, unless they are more than MAX_SORTED.
    """
    f, wanted = run_filter, filter_runs(replace(run_filter, text=""))
    if f.queue and f.allowed_queues is not None and f.queue not in f.allowed_queues:
        return SearchPlan(branches=[])
    if order is RunOrder.SLOWEST:
        wanted = wanted.filter(run_ms__isnull=False)
    if f.text and (matches := find_matches(f.text, limit=MAX_SORTED)) is not None:
        return SearchPlan(branches=[_in_order(wanted.filter(pk__in=matches), order, after)])
    if f.task_id:
        return SearchPlan(branches=[_in_order(wanted, order, after)], text=f.text)
    drivers = _plan_drivers(f)
    if order is RunOrder.SLOWEST:
        if drivers != [{}] and (few := _find_few(drivers)) is not None:
            return SearchPlan(branches=[_in_order(wanted.filter(pk__in=few), order, after)], text=f.text)
        drivers = [{"queue": f.queue}] if f.queue else [{}]
    driven = [TaskRun.objects.filter(**driver) for driver in drivers]
    if order is RunOrder.SLOWEST:
        driven = [runs.filter(run_ms__isnull=False) for runs in driven]
    if len(driven) > 1 or _is_covered(f, drivers[0]):
        return SearchPlan(branches=[_in_order(runs, order, after) for runs in driven], text=f.text)
    candidates = _in_order(driven[0], order, after)
    branch = _in_order(wanted.filter(pk__in=candidates.values("pk")[:MAX_CANDIDATES]), order, after)
    return SearchPlan(branches=[branch], candidates=candidates, text=f.text)


def _search_text(plan: SearchPlan, run_filter: RunFilter, order: RunOrder, *, limit: int) -> RunPage:
    """Return the page of a plan with a text, chunk by chunk until it is full."""
    found: list[TaskRun] = []
    after: RunCursor | None = None
    for size in TEXT_CHUNKS:
        ids, after = _read_chunk(plan, run_filter, order, after, size)
        matching = select_matching(plan.text, ids)[: limit + 1 - len(found)]
        found += _in_order(TaskRun.objects.filter(pk__in=matching), order, None)
        if len(found) > limit:
            return RunPage(runs=found[:limit], end=cursor_of(found[limit - 1], order))
        if after is None:
            return RunPage(runs=found, end=None)
    return RunPage(runs=found, end=after, is_partial=True)


def _read_chunk(
    plan: SearchPlan, run_filter: RunFilter, order: RunOrder, after: RunCursor | None, size: int
) -> tuple[list[int], RunCursor | None]:
    """Return the ids of those of the next `size` runs of a plan that meet all conditions but the text, and where they
    end; None: there are no more."""
    if plan.candidates is None and len(plan.branches) != 1:
        return _read_merged(plan.branches, order, after, size)
    runs = _in_order(plan.branches[0] if plan.candidates is None else plan.candidates, order, after)
    chunk = runs.values_list("pk", flat=True)[:size]
    if plan.candidates is not None:
        others = filter_runs(replace(run_filter, text="")).filter(pk__in=chunk)
        chunk = _in_order(others, order, None).values_list("pk", flat=True)
    last = runs[size - 1 : size].first()
    return list(chunk), cursor_of(last, order) if last else None


def _read_merged(
    branches: Sequence[QuerySet[TaskRun]], order: RunOrder, after: RunCursor | None, size: int
) -> tuple[list[int], RunCursor | None]:
    """Return the same of branches, which together are the list: up to the first that has more than its share."""
    share = max(size // max(len(branches), 1), 1)
    parts = [
        [
            RunCursor(order=order, id=pk, ended_at=ended_at, run_ms=run_ms)
            for pk, ended_at, run_ms in _in_order(runs, order, after).values_list("pk", "ended_at", "run_ms")[:share]
        ]
        for runs in branches
    ]
    chunk = list(_merge(parts, order))
    end = next(_merge([part[-1:] for part in parts if len(part) == share], order), None)
    return [each.id for each in (chunk[: chunk.index(end) + 1] if end else chunk)], end


def _plan_drivers(f: RunFilter) -> list[dict[str, object]]:
    """Return the conditions of the index to read in order of time; several: an index each, which find all that match.

    The period is a condition of each.
    """
    period = {name: at for name, at in (("ended_at__gte", f.since), ("ended_at__lt", f.until)) if at is not None}
    in_queue = {"queue": f.queue} if f.queue else {}
    if f.fingerprint:
        return [{"fingerprint": f.fingerprint, **in_queue, **period}]
    if f.worker_id:
        return [{"worker_id": f.worker_id, **period}]
    if f.commit:
        return [{"commit": f.commit, **period}]
    queues = (
        [in_queue] if f.queue or f.allowed_queues is None else [{"queue": name} for name in sorted(f.allowed_queues)]
    )
    outcomes: list[dict[str, object]] = [{"outcome": outcome.value} for outcome in sorted(f.outcomes)] or [{}]
    drivers = [{**queue, **outcome, **period} for queue in queues for outcome in outcomes]
    is_covered = all(_is_covered(f, driver) for driver in drivers)
    return drivers if is_covered and 0 < len(drivers) <= _MAX_BRANCHES else [{**in_queue, **period}]


def _is_covered(f: RunFilter, driver: Mapping[str, object]) -> bool:
    """Return whether the conditions of an index are all of a filter, apart from alternatives of its other branches."""
    if f.redis_queue or f.is_final is not None or f.min_run_ms is not None:
        return False
    if (f.since, f.until) != (driver.get("ended_at__gte"), driver.get("ended_at__lt")):
        return False
    if "fingerprint" in driver and "queue" in driver:
        return False  # the index has an error's runs in all queues
    required = {
        "queue": bool(f.queue) or f.allowed_queues is not None,
        "outcome": bool(f.outcomes),
        "fingerprint": bool(f.fingerprint),
        "worker_id": bool(f.worker_id),
        "commit": bool(f.commit),
    }
    return all(name in driver for name, is_required in required.items() if is_required)


def _find_few(drivers: Sequence[Mapping[str, object]]) -> list[int] | None:
    """Return the ids of the runs that an index finds; None if they are too many to be sorted."""
    found: list[int] = []
    for driver in drivers:
        newest = TaskRun.objects.filter(**driver).order_by("-ended_at", "-id").values_list("pk", flat=True)
        found += newest[: MAX_SORTED + 1 - len(found)]
    return found if len(found) <= MAX_SORTED else None


def _in_order(runs: QuerySet[TaskRun], order: RunOrder, after: RunCursor | None) -> QuerySet[TaskRun]:
    if after is not None:
        runs = runs.filter(_follows(order, after))
    return runs.order_by(*_ORDER_BY[order])


def _merge(parts: Iterable[Iterable[_Ordered]], order: RunOrder) -> Iterator[_Ordered]:
    """Return what parts hold, each in order, together in this order."""

    def key(each: _Ordered) -> tuple[Any, int]:
        return each.run_ms if order is RunOrder.SLOWEST else each.ended_at, each.id

    return merge(*parts, key=key, reverse=order is not RunOrder.OLDEST)


def list_task_runs(redis_queue: str, task_id: str) -> list[TaskRun]:
    """Return the stored runs of a task, oldest first."""
    return list(TaskRun.objects.filter(task_id=task_id, redis_queue=redis_queue).order_by("ended_at", "id"))


def find_last_ends(tasks: Iterable[tuple[str, str]]) -> dict[tuple[str, str], TaskRun]:
    """Return the last run with which each task ended, without texts, by Redis queue and task id, in one query."""
    task_ids = {task_id for _, task_id in tasks}
    ends = TaskRun.objects.filter(task_id__in=task_ids, is_final=True).order_by("ended_at", "id")
    fields = ("task_id", "redis_queue", "outcome", "is_final", "ended_at", "run_ms")
    return {(run.redis_queue, run.task_id): run for run in ends.only(*fields)}


def find_newest_run(task_id: str, redis_queue: str = "") -> TaskRun | None:
    """Return the newest run of a task; without a Redis queue, of any task with this id."""
    if "\0" in redis_queue:
        return None  # PostgreSQL raises an error
    runs = TaskRun.objects.filter(task_id=task_id, **({"redis_queue": redis_queue} if redis_queue else {}))
    return runs.order_by("-ended_at", "-id").first()


def find_tasks_with_text(tasks: Iterable[TaskLocation], text: str) -> set[TaskLocation]:
    """Return those of some tasks that have a stored run which holds a text. Raise RequestInvalid."""
    wanted = set(tasks)
    rows = TaskRun.objects.filter(task_id__in={task_id for _, task_id in wanted})
    runs = {pk: (queue, task_id) for pk, queue, task_id in rows.values_list("pk", "redis_queue", "task_id")}
    return {runs[pk] for pk in select_matching(text, list(runs))} & wanted


def cursor_of(run: TaskRun, order: RunOrder) -> RunCursor:
    """Return the position of a run in a list."""
    return RunCursor(order=order, id=run.pk, ended_at=run.ended_at, run_ms=run.run_ms)


_ORDER_BY: Mapping[RunOrder, tuple[str, str]] = {
    RunOrder.NEWEST: ("-ended_at", "-id"),
    RunOrder.OLDEST: ("ended_at", "id"),
    RunOrder.SLOWEST: ("-run_ms", "-id"),
}


def _follows(order: RunOrder, after: RunCursor) -> Q:
    """Return the condition for what follows in a list; its first part alone can use an index."""
    if order is RunOrder.NEWEST:
        return Q(ended_at__lte=after.ended_at) & (Q(ended_at__lt=after.ended_at) | Q(id__lt=after.id))
    if order is RunOrder.OLDEST:
        return Q(ended_at__gte=after.ended_at) & (Q(ended_at__gt=after.ended_at) | Q(id__gt=after.id))
    return Q(run_ms__lte=after.run_ms) & (Q(run_ms__lt=after.run_ms) | Q(id__lt=after.id))

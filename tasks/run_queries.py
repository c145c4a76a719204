"""Reads the history of runs: runs by filter, and groups of errors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from heapq import merge

from django.db import connection
from django.db.models import Count, Max, Min, Q, QuerySet
from django.db.models.expressions import RawSQL

from queues.catalog import AllowedQueues
from queues.queries import get_fresh_catalog
from runqy.broker.states import RunOutcome
from runqy.errors import QueueNotFound
from tasks.fulltext_index import newest_matches
from tasks.models import QueueHour, RunStream, TaskRun

MAX_CANDIDATES = 5_000
"""How many runs are searched for one page, where no index has all conditions of a filter."""
MAX_FAILURES = 100_000
"""How many failures are counted in groups."""
MAX_SORTED = 10_000
"""How many runs are sorted by duration, where no index has them in this order."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A page of runs."""

    runs: list[TaskRun]
    end: RunCursor | None
    """None: the last page."""
    is_partial: bool = False
    """The page is not full although more runs may match: those after `end`; without `end`, older ones that hold the
    text, which too many runs do."""


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


def filter_runs(run_filter: RunFilter) -> QuerySet[TaskRun]:
    """Return the runs that match, in no order. Raise RequestInvalid."""
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
    }
    runs = TaskRun.objects.filter(**{name: value for name, value in conditions.items() if value not in ("", None)})
    if f.allowed_queues is not None:
        runs = runs.filter(queue__in=f.allowed_queues)
    if f.outcomes:
        runs = runs.filter(outcome__in=[outcome.value for outcome in f.outcomes])
    if f.text:
        runs = runs.filter(pk__in=RawSQL(*newest_matches(f.text, limit=MAX_CANDIDATES)))  # noqa: S611 (parameters)
    return runs


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
    key, is_descending = _sort_key(order), order is not RunOrder.OLDEST
    found = list(merge(*(branch[: limit + 1] for branch in plan.branches), key=key, reverse=is_descending))
    page = found[:limit]
    if len(found) > limit:
        return RunPage(runs=page, end=cursor_of(page[-1], order))
    if plan.candidates is None:
        return RunPage(runs=page, end=None, is_partial=bool(run_filter.text) and _is_text_common(run_filter.text))
    last = plan.candidates[MAX_CANDIDATES - 1 : MAX_CANDIDATES].first()
    return RunPage(runs=page, end=cursor_of(last, order) if last else None, is_partial=last is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The queries of a list."""

    branches: list[QuerySet[TaskRun]]
    """In order; merged, they are the list."""
    candidates: QuerySet[TaskRun] | None = None
    """The runs of which the first MAX_CANDIDATES are searched; None: all are."""


def plan_search(run_filter: RunFilter, order: RunOrder, after: RunCursor | None = None) -> SearchPlan:
    """Return queries that read one index in the order of the list, so that none sorts or reads a whole table.

    Conditions that no index has beside that order are checked on MAX_CANDIDATES runs at a time.
    """
    f, wanted = run_filter, filter_runs(run_filter)
    if f.queue and f.allowed_queues is not None and f.queue not in f.allowed_queues:
        return SearchPlan(branches=[])
    if order is RunOrder.SLOWEST:
        wanted = wanted.filter(run_ms__isnull=False)
    if f.text or f.task_id:
        return SearchPlan(branches=[_in_order(wanted, order, after)])
    drivers = _plan_drivers(f)
    if order is RunOrder.SLOWEST:
        if drivers != [{}] and (few := _find_few(drivers)) is not None:
            return SearchPlan(branches=[_in_order(wanted.filter(pk__in=few), order, after)])
        drivers = [{"queue": f.queue}] if f.queue else [{}]
    driven = [TaskRun.objects.filter(**driver) for driver in drivers]
    if order is RunOrder.SLOWEST:
        driven = [runs.filter(run_ms__isnull=False) for runs in driven]
    if len(driven) > 1 or _is_covered(f, drivers[0]):
        return SearchPlan(branches=[_in_order(runs, order, after) for runs in driven])
    candidates = _in_order(driven[0], order, after)
    branch = _in_order(wanted.filter(pk__in=candidates.values("pk")[:MAX_CANDIDATES]), order, after)
    return SearchPlan(branches=[branch], candidates=candidates)


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


def _sort_key(order: RunOrder) -> Callable[[TaskRun], tuple[object, int]]:
    if order is RunOrder.SLOWEST:
        return lambda run: (run.run_ms, run.pk)
    return lambda run: (run.ended_at, run.pk)


def _is_text_common(text: str) -> bool:
    """Return whether more runs hold a text than are searched."""
    sql, parameters = newest_matches(text, limit=MAX_CANDIDATES + 1)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM ({sql}) AS matches", parameters)  # noqa: S608 (constants)
        return bool(cursor.fetchone()[0] > MAX_CANDIDATES)


def list_task_runs(redis_queue: str, task_id: str) -> list[TaskRun]:
    """Return the stored runs of a task, oldest first."""
    return list(TaskRun.objects.filter(task_id=task_id, redis_queue=redis_queue).order_by("ended_at", "id"))


def find_last_ends(tasks: Iterable[tuple[str, str]]) -> dict[tuple[str, str], TaskRun]:
    """Return the last run with which each task ended, without texts, by Redis queue and task id, in one query."""
    task_ids = {task_id for _, task_id in tasks if "\0" not in task_id}  # PostgreSQL raises an error
    ends = TaskRun.objects.filter(task_id__in=task_ids, is_final=True).order_by("ended_at", "id")
    fields = ("task_id", "redis_queue", "outcome", "is_final", "ended_at", "run_ms")
    return {(run.redis_queue, run.task_id): run for run in ends.only(*fields)}


def find_newest_run(task_id: str, redis_queue: str = "") -> TaskRun | None:
    """Return the newest run of a task; without a Redis queue, of any task with this id."""
    if "\0" in task_id + redis_queue:
        return None  # PostgreSQL raises an error
    runs = TaskRun.objects.filter(task_id=task_id, **({"redis_queue": redis_queue} if redis_queue else {}))
    return runs.order_by("-ended_at", "-id").first()


def cursor_of(run: TaskRun, order: RunOrder) -> RunCursor:
    """Return the position of a run in a list."""
    return RunCursor(order=order, id=run.pk, ended_at=run.ended_at, run_ms=run.run_ms)


def list_error_groups(run_filter: RunFilter, *, limit: int) -> ErrorGroupList:
    """Return the groups of errors among the newest runs that match, the largest first."""
    failures = filter_runs(run_filter).filter(fingerprint__isnull=False)
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

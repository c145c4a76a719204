"""Read schedules and their fires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import Count, F, Min, Q, QuerySet

from queues.catalog import AllowedQueues, QueueCatalog, ResolvedQueue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.states import FAILURES, TaskState
from runqy.broker.tasks.reader import TaskLocation, read_states
from runqy.errors import BrokerUnavailable, ScheduleNotFound
from schedules.models import Fire, Schedule
from tasks.models import TaskRun

UNKNOWN_FOR = timedelta(days=1)
"""How long a fire of unknown outcome is reported."""


class ScheduleState(StrEnum):
    """Whether a schedule fires."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"
    """It has no due time any more."""
    BROKEN = "broken"
    """Its queue was deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FireView:
    """A fire, with what became of its task."""

    fire: Fire
    task_state: TaskState | None = None
    """None: the task is not in Redis any more, or was not enqueued."""
    run_ms: int | None = None
    """How long its last run took, if the history has it."""
    outcome: str = ""
    """Of its last run in the history; empty if there is none."""


def filter_schedules(*, allowed_queues: AllowedQueues = None, queue: str = "") -> QuerySet[Schedule]:
    schedules = Schedule.objects.all()
    if allowed_queues is not None:
        schedules = schedules.filter(parent_queue__in=allowed_queues)
    return schedules.filter(Q(queue=queue) | Q(parent_queue=queue)) if queue else schedules


def list_schedules(
    limit: int, after: str | None, *, allowed_queues: AllowedQueues = None, queue: str = ""
) -> tuple[list[Schedule], str | None]:
    """Return a page by name, and the name after which the next page begins."""
    schedules = filter_schedules(allowed_queues=allowed_queues, queue=queue).order_by("name")
    found = list((schedules.filter(name__gt=after) if after else schedules)[: limit + 1])
    return found[:limit], found[limit - 1].name if len(found) > limit else None


def get_schedule(name: str, *, allowed_queues: AllowedQueues = None) -> Schedule:
    """Raise ScheduleNotFound, also if its queue is not one of these."""
    found = filter_schedules(allowed_queues=allowed_queues).filter(name=name).first()
    if found is None:
        raise ScheduleNotFound(f"No schedule {name[:128]!r}.")
    return found


def find_target(schedule: Schedule, catalog: QueueCatalog) -> ResolvedQueue | None:
    """Return where a schedule enqueues; None if its queue does not exist."""
    return _find_target(schedule.queue, schedule.parent_queue, catalog)


def _find_target(queue: str, parent_queue: str, catalog: QueueCatalog) -> ResolvedQueue | None:
    # The name of a sub-queue that was deleted may since have become that of another queue, with other clients.
    resolved = catalog.find(queue)
    return resolved if resolved and resolved.queue.name == parent_queue else None


def get_state(schedule: Schedule, catalog: QueueCatalog) -> ScheduleState:
    return _state(schedule.is_paused, schedule.next_due_at is None, find_target(schedule, catalog) is not None)


def _state(is_paused: bool, has_ended: bool, has_queue: bool) -> ScheduleState:
    if not has_queue:
        return ScheduleState.BROKEN
    if is_paused:
        return ScheduleState.PAUSED
    return ScheduleState.ENDED if has_ended else ScheduleState.ACTIVE


def get_states(schedules: Sequence[Schedule]) -> dict[int, ScheduleState]:
    """Return the states of schedules by primary key. Raise ConfigurationUnavailable."""
    catalog = get_fresh_catalog()
    return {each.pk: get_state(each, catalog) for each in schedules}


def list_fires(schedule: Schedule, limit: int, before: int | None) -> tuple[list[Fire], int | None]:
    """Return a page of the fires that are kept, the latest first, and the number before which the next page begins."""
    fires = Fire.objects.filter(schedule=schedule).order_by("-number", "-pk")
    found = list((fires.filter(number__lt=before) if before is not None else fires)[: limit + 1])
    return found[:limit], found[limit - 1].number if len(found) > limit else None


def view_fires(broker: Broker, fires: Sequence[Fire]) -> list[FireView]:
    """Add the states of the tasks, and their last runs. Raise BrokerUnavailable."""
    enqueued = [fire for fire in fires if fire.state == Fire.State.ENQUEUED]
    locations: list[TaskLocation] = [(fire.redis_queue, fire.task_id) for fire in enqueued]
    states = broker.run(read_states(locations)) if locations else []
    by_id = dict(zip([fire.task_id for fire in enqueued], states, strict=True))
    runs = _find_last_runs([fire.task_id for fire in enqueued])
    views = []
    for fire in fires:
        run = runs.get(fire.task_id) if fire.state == Fire.State.ENQUEUED else None
        views.append(
            FireView(
                fire=fire,
                task_state=by_id.get(fire.task_id),
                run_ms=run.run_ms if run else None,
                outcome=run.outcome if run else "",
            )
        )
    return views


def find_last_fires(broker: Broker, schedules: Sequence[Schedule]) -> dict[int, FireView]:
    """Return the last fires by the primary key of their schedule. Without Redis, states of tasks are left out."""
    last = Q(schedule__in=[each.pk for each in schedules], number=F("schedule__fire_count"))
    fires = list(Fire.objects.filter(last))
    try:
        views = view_fires(broker, fires)
    except BrokerUnavailable:
        views = [FireView(fire=fire) for fire in fires]
    return {view.fire.schedule_id: view for view in views}


def find_problem(schedule: Schedule, last: FireView | None) -> str:
    """Return why the last fire enqueued nothing, or that its task failed; empty if neither."""
    if schedule.problem or last is None:
        return schedule.problem
    if last.fire.state != Fire.State.ENQUEUED:
        return f"The last fire is {last.fire.state}: {last.fire.reason}" if last.fire.reason else ""
    has_failed = last.task_state == TaskState.ARCHIVED or (last.task_state is None and last.outcome in FAILURES)
    return "The task of the last fire failed." if has_failed else ""


def find_lag_s(now: datetime) -> float:
    """Return for how long the fire that is due for longest has been waiting for its task, in s; 0 if none is due."""
    waiting = Fire.objects.filter(state=Fire.State.WAITING).aggregate(first=Min("fire_at"))["first"]
    first = Schedule.objects.filter(wake_at__lte=now).aggregate(first=Min("wake_at"))["first"]
    times: list[datetime] = [time for time in (waiting, first) if time is not None]
    return max([0.0, *((now - time).total_seconds() for time in times)])


def count_by_state() -> Mapping[ScheduleState, int]:
    """Count schedules by their states. Raise ConfigurationUnavailable."""
    catalog, counts = get_fresh_catalog(), dict.fromkeys(ScheduleState, 0)
    schedules = Schedule.objects.annotate(has_ended=Q(next_due_at=None)).values_list(
        "queue", "parent_queue", "is_paused", "has_ended"
    )
    groups = schedules.annotate(number=Count("pk")).order_by()
    for queue, parent_queue, is_paused, has_ended, number in groups:
        counts[_state(is_paused, has_ended, _find_target(queue, parent_queue, catalog) is not None)] += number
    return counts


def list_problems() -> list[Schedule]:
    """Return schedules whose last fire enqueued nothing although it should have, and that are to fire again."""
    firing = Schedule.objects.filter(is_paused=False, next_due_at__isnull=False)
    return list(firing.exclude(problem="").order_by("name"))


def count_unknown_fires(now: datetime) -> int:
    """Count the fires of the last day of which it is unknown whether their task was enqueued."""
    return Fire.objects.filter(state=Fire.State.UNKNOWN, settled_at__gte=now - UNKNOWN_FOR).count()


def _find_last_runs(task_ids: Sequence[str]) -> dict[str, TaskRun]:
    runs = TaskRun.objects.filter(task_id__in=task_ids).only("task_id", "run_ms", "outcome").order_by("id")
    return {run.task_id: run for run in runs}

"""Fire what is due: insert a row for each due time, enqueue its task, and settle the row. There is no leader.

Several maintenance processes do this at once. What they do for one schedule is kept apart by `wake_at`, which each
moves by compare-and-set, and made safe by the rows: a due time has one, and its task is enqueued once
(tasks/intents.py), whichever process finds it. So a process may be killed between any two steps.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import msgspec
from django.db import transaction
from django.db.models import F, QuerySet, Window
from django.db.models.functions import RowNumber

from queues.queries import get_fresh_catalog
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.reader import TaskLocation, read_states
from runqy.errors import BrokerUnavailable, QueueNotFound, RequestInvalid, TaskNotUnique
from schedules.models import FAILED_STATES, REASON_MAX_LENGTH, Fire, Schedule, failures
from schedules.planning import Plan, make_fire, plan
from schedules.queries import find_target
from schedules.requested_tasks import request_task
from schedules.specs import Overlap
from tasks.intents import Intent, IntentOutcome, IntentState, enqueue_intents
from tasks.operations import FORGOTTEN_TTL_S, forget_enqueued_ids

PAGE = 500
TICK_S = 2.0
"""The time that one tick takes at most, apart from its last page."""
LEASE = timedelta(seconds=10)
"""How long other processes leave a schedule alone that one is firing. A page takes a second or so."""
RETRY = timedelta(seconds=5)
"""How long a fire waits for room in its queue, or for the queue to be enabled, before it is tried again."""
ATTEMPT_S = FORGOTTEN_TTL_S // 2
"""Redis refuses what a process sends later than this after it read the row: the id may be forgotten by then."""
SOON = timedelta(seconds=6)
"""While nothing is due this soon, the duty wakes less often, each IDLE_INTERVAL_S at least."""
CLOCK_ERROR = timedelta(seconds=2)
"""How long after its window a fire is missed. By then Redis refuses what an interrupted process sends."""
KEEP_FIRES = 100
LOOKED_AT = 20
"""How many tasks of a schedule are looked at at once, to find one that has not ended."""
_State = Fire.State


@dataclass(frozen=True, slots=True)
class _Decision:
    """What becomes of a fire in this pass."""

    fire: Fire
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Pass:
    """The schedules that this process fires now, by id."""

    now: datetime
    lease_until: datetime
    schedules: Mapping[int, Schedule]
    plans: Mapping[int, Plan]
    running: Mapping[int, str]
    """Of those that must not overlap, the id of a task that has not ended."""


def run_schedules(broker: Broker) -> bool:
    """Fire what is due, for TICK_S. Return whether something was, or will be within SOON.

    Raise BrokerUnavailable, ConfigurationUnavailable.
    """
    if not Schedule.objects.filter(wake_at__lte=broker.now() + SOON).exists():
        return False
    until = clock.monotonic_s() + TICK_S
    failures.begin_pass()
    while True:
        now = broker.now()
        due = failures.exclude_paused(Schedule.objects.filter(wake_at__lte=now)).order_by("wake_at")
        found = list(due.values_list("pk", "name", "parent_queue")[:PAGE])
        failures.handle(found, partial(_run_rows, broker, now), describe=lambda row: row)
        if len(found) < PAGE or clock.monotonic_s() >= until:
            return True


def correct_due_times(broker: Broker) -> None:
    """Let schedules wake for their next time after now. After Redis's clock was ahead, they have a later one.

    Also wake those whose time zone was missing in the IANA database, and is there again.
    """
    now, after = broker.now(), 0
    Schedule.objects.filter(wake_at__gt=now + LEASE, fires__state=_State.WAITING).update(wake_at=now)
    later = Schedule.objects.filter(next_due_at__isnull=False, is_paused=False).defer("payload", "options")
    while rows := list(later.filter(pk__gt=after).order_by("pk")[:PAGE]):
        after = rows[-1].pk
        changed: dict[int, tuple[Schedule, datetime | None]] = {}
        for row in rows:
            with suppress(ValueError):  # its time zone is missing
                due = row.timing.next_after(now)
                if (due and row.next_due_at and due < row.next_due_at) or row.wake_at is None:
                    changed[row.pk] = row, row.wake_at
                    row.wake_at, row.next_due_at = now, min(filter(None, (due, row.next_due_at)))
        with transaction.atomic():
            wakes = _lock_wakes(changed.keys())
            # Whoever changed it meanwhile knew the time.
            _update([row for pk, (row, wake) in changed.items() if wakes.get(pk) == wake], ["wake_at", "next_due_at"])


def _run_rows(broker: Broker, now: datetime, rows: Sequence[tuple[int, str, str]]) -> None:
    # Read again in each part: what failed together may have changed some of them.
    run_due(broker, Schedule.objects.filter(pk__in=[pk for pk, _, _ in rows]), now)


def run_due(broker: Broker, due: Iterable[Schedule], now: datetime) -> None:
    """Fire schedules that were read at a time, as far as no other process does."""
    lease_until = now + LEASE
    leased, plans = _insert_fires(due, now, lease_until)
    waiting: defaultdict[int, list[Fire]] = defaultdict(list)
    for fire in Fire.objects.filter(schedule__in=list(leased), state=_State.WAITING).order_by("number"):
        waiting[fire.schedule_id].append(fire)
    running = _find_running(broker, [leased[pk] for pk in waiting])
    current = _Pass(now, lease_until, leased, plans, running)
    _store(broker, current, _settle(broker, current, waiting))


def find_old_fires() -> QuerySet[Fire]:
    """Return fires that are not kept: not the last KEEP_FIRES of each schedule, those that wait, and those that others
    must not overlap.
    """
    old = Fire.objects.filter(number__lte=F("schedule__fire_count") - KEEP_FIRES).exclude(state=_State.WAITING)
    return old.exclude(is_unfinished=True, schedule__overlap=Overlap.SKIP)


def _insert_fires(
    due: Iterable[Schedule], now: datetime, lease_until: datetime
) -> tuple[dict[int, Schedule], dict[int, Plan]]:
    """Insert the fires that are due, and take the schedules from other processes until a time. One transaction."""
    catalog = get_fresh_catalog()
    leased: dict[int, Schedule] = {}
    plans: dict[int, Plan] = {}
    fires: list[Fire] = []
    with transaction.atomic():
        due = list(due)
        wakes = _lock_wakes([schedule.pk for schedule in due])
        for schedule in due:
            if wakes.get(schedule.pk) != schedule.wake_at:
                continue  # it was changed meanwhile, or another process fires it
            try:
                planned = plan(schedule, now)
            except ValueError as error:  # its time zone was removed from the IANA database
                problem = f"time_zone: {error}"
                Schedule.objects.filter(pk=schedule.pk).update(wake_at=None, problem=problem)
                continue
            leased[schedule.pk], plans[schedule.pk] = schedule, planned
            schedule.wake_at, schedule.next_due_at = lease_until, planned.next_due_at
            if planned.fire is not None:
                resolved = find_target(schedule, catalog)
                schedule.fire_count += 1
                fires.append(make_fire(schedule, planned.fire, resolved.redis_queue if resolved else "", now))
        _update(leased.values(), ["wake_at", "next_due_at"])
        Schedule.objects.filter(pk__in=[fire.schedule_id for fire in fires]).update(fire_count=F("fire_count") + 1)
        # A clock that was set back makes a time due again that has its fire.
        Fire.objects.bulk_create(fires, ignore_conflicts=True)
    return leased, plans


def _lock_wakes(schedules: Collection[int]) -> dict[int, datetime | None]:
    """Return when schedules wake, by id. No other process changes them until the transaction ends."""
    # In one order, against deadlocks. SQLite has no lock of rows: its transactions exclude each other.
    rows = Schedule.objects.select_for_update().filter(pk__in=schedules).order_by("pk")
    return dict(rows.values_list("pk", "wake_at"))


def _settle(broker: Broker, current: _Pass, waiting: Mapping[int, Sequence[Fire]]) -> list[_Decision]:
    """Enqueue the tasks of waiting fires, and return what became of each."""
    schedules, now = current.schedules, current.now
    decisions: list[_Decision] = []
    intents: list[Intent] = []
    _find_queues(schedules, [fire for fires in waiting.values() for fire in fires if not fire.redis_queue])
    for pk, fires in waiting.items():
        schedule = schedules[pk]
        for index, fire in enumerate(fires):
            verdict = _find_obstacle(schedule, fire, now, earlier=fires[:index], running=current.running.get(pk, ""))
            if not fire.redis_queue:
                error = QueueNotFound(f"The queue {schedule.queue} does not exist.")
                decisions.append(verdict or _Decision(fire, _State.WAITING, error.detail))
                continue
            verdict, intent = _prepare(schedule, fire, verdict, now)
            decisions.append(verdict)
            intents.append(intent)
    outcomes = {
        intent.task.id: (intent, outcome)
        for intent, outcome in zip(intents, enqueue_intents(broker, intents), strict=True)
    }
    return [
        _decide(verdict, *outcomes[verdict.fire.task_id]) if verdict.fire.redis_queue else verdict
        for verdict in decisions
    ]


def _find_running(broker: Broker, schedules: Iterable[Schedule]) -> dict[int, str]:
    """Return of the schedules that must not overlap the id of a task that has not ended; mark those that have.

    Each task is looked at once after its end, and before that with at most LOOKED_AT others of its schedule.
    """
    running: dict[int, str] = {}
    remaining = {each.pk for each in schedules if each.overlap == Overlap.SKIP}
    while remaining:
        unfinished = Fire.objects.filter(schedule__in=remaining, is_unfinished=True)
        rank = Window(RowNumber(), partition_by=F("schedule"), order_by=F("number").asc())
        fires = list(unfinished.annotate(rank=rank).filter(rank__lte=LOOKED_AT))
        locations: list[TaskLocation] = [(fire.redis_queue, fire.task_id) for fire in fires]
        states = broker.run(read_states(locations)) if fires else []
        ended = []
        for fire, state in zip(fires, states, strict=True):
            if state is None or state.is_final:
                ended.append(fire.pk)
            else:
                running.setdefault(fire.schedule_id, fire.task_id)
        if ended:
            Fire.objects.filter(pk__in=ended).update(is_unfinished=False)
        counts = Counter(fire.schedule_id for fire in fires)
        remaining = {pk for pk, count in counts.items() if count == LOOKED_AT and pk not in running}
    return running


def _find_queues(schedules: Mapping[int, Schedule], fires: Iterable[Fire]) -> None:
    """Fix the Redis queues of fires whose queue did not exist, before anything is enqueued there."""
    catalog = get_fresh_catalog()
    for fire in fires:
        resolved = find_target(schedules[fire.schedule_id], catalog)
        is_first = resolved and Fire.objects.filter(pk=fire.pk, redis_queue="").update(redis_queue=resolved.redis_queue)
        if resolved and is_first:
            fire.redis_queue = resolved.redis_queue


def _find_obstacle(
    schedule: Schedule, fire: Fire, now: datetime, *, earlier: Sequence[Fire], running: str
) -> _Decision | None:
    """Return why a fire is not to be enqueued, unless it was already; None if it is."""
    if now > fire.until + CLOCK_ERROR:
        return _Decision(fire, _State.MISSED, fire.reason or "It was not enqueued within its window.")
    if now > fire.until:
        return _Decision(fire, _State.WAITING, fire.reason)
    reason = ""
    if schedule.is_paused:
        reason = "The schedule was paused."
    elif schedule.overlap == Overlap.SKIP and earlier and not fire.is_triggered:
        if all(now > each.until for each in earlier):  # they are about to be missed
            return _Decision(fire, _State.WAITING, fire.reason)
        reason = "The fire before it has not been enqueued yet (overlap: skip)."
    elif running:
        reason = f"Task {running} has not ended (overlap: skip)."
    return _Decision(fire, _State.SKIPPED, reason) if reason and not fire.is_triggered else None


def _prepare(schedule: Schedule, fire: Fire, obstacle: _Decision | None, now: datetime) -> tuple[_Decision, Intent]:
    """Return what becomes of a fire unless its task was or is enqueued, and the intent that does or finds that."""
    request_id = f"schedule-{schedule.name}"
    if obstacle is None:
        try:
            requested = request_task(replace(schedule.as_spec(), queue=fire.redis_queue))
        except RequestInvalid as error:
            obstacle = _Decision(fire, _State.REFUSED, error.detail)
        else:
            task = msgspec.structs.replace(requested, id=fire.task_id)
            until_s = min(int(fire.until.timestamp()), int(now.timestamp()) + ATTEMPT_S)
            parents = (schedule.parent_queue,)
            intent = Intent(
                task=task, requested_s=fire.requested_s, until_s=until_s, request_id=request_id, parents=parents
            )
            return _Decision(fire, _State.WAITING, fire.reason), intent
    task = NewTask.requested(id=fire.task_id, queue=fire.redis_queue, payload=b"")
    return obstacle, Intent(task=task, requested_s=fire.requested_s, request_id=request_id, is_only_checked=True)


def _decide(verdict: _Decision, intent: Intent, outcome: IntentOutcome) -> _Decision:
    fire = verdict.fire
    match outcome.state, outcome.error:
        case IntentState.ENQUEUED, _:
            return _Decision(fire, _State.ENQUEUED)
        case IntentState.UNKNOWN, _:
            return _Decision(fire, _State.UNKNOWN, "Interrupted for a day: it may or may not have been enqueued.")
        case IntentState.REFUSED, TaskNotUnique() as error:
            return _Decision(fire, _State.SKIPPED, error.detail)
        case IntentState.REFUSED, _:
            return _Decision(fire, _State.REFUSED, outcome.reason)
        case _, None:
            return verdict
    return verdict if intent.is_only_checked else _Decision(fire, _State.WAITING, outcome.reason)


def _store(broker: Broker, current: _Pass, decisions: Sequence[_Decision]) -> None:
    """Mark what was decided, and let the schedules wake for what is next. One transaction."""
    now = broker.now()
    by_schedule: defaultdict[int, list[_Decision]] = defaultdict(list)
    for decision in decisions:
        by_schedule[decision.fire.schedule_id].append(decision)
    enqueued = [decision.fire for decision in decisions if decision.state == _State.ENQUEUED]
    with transaction.atomic():
        # What was enqueued counts, whatever another process decided meanwhile.
        Fire.objects.filter(pk__in=[fire.pk for fire in enqueued]).exclude(state=_State.ENQUEUED).update(
            state=_State.ENQUEUED, reason="", settled_at=now, is_unfinished=True
        )
        for decision in decisions:
            if decision.state != _State.ENQUEUED:
                _mark(decision, now)
        _wake_later(current, by_schedule, now)
        transaction.on_commit(lambda: _forget(broker, enqueued))


def _mark(decision: _Decision, now: datetime) -> None:
    values: dict[str, object] = {"state": decision.state, "reason": decision.reason[:REASON_MAX_LENGTH]}
    if decision.state != _State.WAITING:
        values |= {"settled_at": now}
    elif decision.reason == decision.fire.reason:
        return
    Fire.objects.filter(pk=decision.fire.pk, state=_State.WAITING).update(**values)


def _wake_later(current: _Pass, decisions: Mapping[int, Sequence[_Decision]], now: datetime) -> None:
    wakes = _lock_wakes(current.schedules.keys())
    woken: list[Schedule] = []
    for pk, schedule in current.schedules.items():
        planned, decided = current.plans[pk], decisions.get(pk, ())
        problem = _find_problem(schedule, planned, decided)
        if problem != schedule.problem:
            Schedule.objects.filter(pk=pk).update(problem=problem)
        # A change of the schedule, or another process after the lease, has moved `wake_at`: theirs counts.
        if wakes.get(pk) == current.lease_until:
            next_wakes = [planned.next_fire_at] if planned.next_fire_at else []
            if any(decision.state == _State.WAITING for decision in decided):
                next_wakes.append(now + RETRY)
            schedule.wake_at = min(next_wakes, default=None)
            woken.append(schedule)
    _update(woken, ["wake_at"])


def _update(rows: Iterable[Schedule], columns: Sequence[str]) -> None:
    """Save columns by a statement for all rows that have the same values: those that are due together have few.

    Django's bulk_update takes longer to build its statement than all the rest.
    """
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for row in rows:
        groups[tuple(getattr(row, column) for column in columns)].append(row.pk)
    for values, ids in groups.items():
        Schedule.objects.filter(pk__in=ids).update(**dict(zip(columns, values, strict=True)))


def _find_problem(schedule: Schedule, planned: Plan, decisions: Sequence[_Decision]) -> str:
    """Return why the last fire that was settled enqueued nothing; empty if it did."""
    problem = schedule.problem
    if planned.fire is not None and planned.fire.state in FAILED_STATES:
        problem = planned.fire.reason
    for decision in decisions:  # the oldest fire first
        if decision.state == _State.ENQUEUED:
            problem = ""
        elif decision.state in FAILED_STATES:
            problem = decision.reason[:REASON_MAX_LENGTH]
    return problem


def _forget(broker: Broker, fires: Iterable[Fire]) -> None:
    by_queue: defaultdict[str, list[str]] = defaultdict(list)
    for fire in fires:
        by_queue[fire.redis_queue].append(fire.task_id)
    with suppress(BrokerUnavailable):  # Redis then keeps the records of these ids for a day
        broker.run_all([forget_enqueued_ids(queue, ids) for queue, ids in by_queue.items()])

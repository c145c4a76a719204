"""Which due time of a schedule fires now, when the next one does, and until when. No I/O."""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from schedules.models import Fire, Schedule
from schedules.specs import MAX_WINDOW_S, MIN_WINDOW_S, CatchUp
from schedules.times import LAST_TIME, Timing

LATE = timedelta(seconds=60)
"""A due time found later than this was missed by maintenance: `catch_up: skip` leaves it out."""
_MICROSECOND = timedelta(microseconds=1)
_State = Fire.State


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFire:
    """A fire to insert."""

    due_at: datetime
    fire_at: datetime
    """With its jitter."""
    until: datetime
    missed_since: datetime | None = None
    state: str = _State.WAITING
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is due, and what is next."""

    fire: PlannedFire | None = None
    next_due_at: datetime | None
    next_fire_at: datetime | None


def plan(schedule: Schedule, now: datetime) -> Plan:
    """Return the last due time of a schedule that has no fire yet, and the next one.

    Each process gets the same, apart from `now`.
    """
    first, timing = schedule.next_due_at, schedule.timing
    if first is None or first > LAST_TIME:
        return Plan(next_due_at=None, next_fire_at=None)
    if (first_at := _fire_at(schedule, timing, first)) > now:
        return Plan(next_due_at=first, next_fire_at=first_at)
    last = timing.last_until(first, now)
    if _fire_at(schedule, timing, last) > now:  # its jitter is not over: only an earlier one fires
        last = timing.last_until(first, last - _MICROSECOND)
    following = timing.next_after(last)
    next_fire_at = None if following is None else _fire_at(schedule, timing, following)
    window = get_window(schedule, last, following)
    fire = _plan_fire(schedule, last, _fire_at(schedule, timing, last), window, first=first, now=now)
    return Plan(fire=fire, next_due_at=following, next_fire_at=next_fire_at)


def plan_trigger(schedule: Schedule, now: datetime) -> PlannedFire:
    """Return a fire for now, whatever is due."""
    due_at = now if now.microsecond else now + _MICROSECOND  # due times have whole seconds
    window = get_window(schedule, due_at, schedule.timing.next_after(due_at))
    return PlannedFire(due_at=due_at, fire_at=due_at, until=due_at + window)


def make_fire(schedule: Schedule, planned: PlannedFire, redis_queue: str, now: datetime) -> Fire:
    return Fire(
        schedule=schedule,
        due_at=planned.due_at,
        fire_at=planned.fire_at,
        until=planned.until,
        missed_since=planned.missed_since,
        number=schedule.fire_count,
        state=planned.state,
        reason=planned.reason,
        settled_at=None if planned.state == _State.WAITING else now,
        task_id=str(uuid.uuid4()),
        redis_queue=redis_queue,
        requested_s=int(now.timestamp()),
    )


def get_window(schedule: Schedule, due_at: datetime, following: datetime | None) -> timedelta:
    """Return how long after it was due a fire may be enqueued, given the due time that follows."""
    if schedule.catch_up_window_s is not None:
        return timedelta(seconds=min(schedule.catch_up_window_s, MAX_WINDOW_S))
    period_s = MAX_WINDOW_S if following is None else int((following - due_at).total_seconds())
    return timedelta(seconds=min(max(period_s, MIN_WINDOW_S), MAX_WINDOW_S))


def _plan_fire(  # noqa: PLR0913 (what is known of a due time)
    schedule: Schedule, due_at: datetime, fire_at: datetime, window: timedelta, *, first: datetime, now: datetime
) -> PlannedFire:
    until = fire_at + window
    state, reason = _State.WAITING, ""
    if schedule.catch_up == CatchUp.SKIP and now - fire_at > LATE:
        state, reason = _State.SKIPPED, "Maintenance did not run when it was due (catch_up: skip)."
    elif now > until:
        state, reason = _State.MISSED, "Maintenance did not run when it was due, nor within the window after it."
    missed_since = None if first == due_at else first
    return PlannedFire(
        due_at=due_at, fire_at=fire_at, until=until, missed_since=missed_since, state=state, reason=reason
    )


def _fire_at(schedule: Schedule, timing: Timing, due_at: datetime) -> datetime:
    """Return a due time with its jitter, the same in every process, and before the next due time."""
    if not schedule.jitter_s:
        return due_at
    following = timing.next_after(due_at)
    most = timedelta(seconds=schedule.jitter_s)
    if following is not None:
        most = min(most, following - due_at - timedelta(seconds=1))
    digest = hashlib.sha256(f"{schedule.pk} {due_at.timestamp()}".encode()).digest()
    return due_at + most * (int.from_bytes(digest[:4]) / 2**32)

"""What the pages of schedules show."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from runqy.admin_site import labels
from runqy.admin_site.times import format_time, show_time, to_reader
from runqy.core.formats import durations
from runqy.core.formats.timestamps import get_zone
from schedules.models import Fire, Schedule
from schedules.queries import FireView, ScheduleState
from schedules.times import Timing, explain_cron

STATE_VARIANTS = {
    ScheduleState.ACTIVE: labels.SUCCESS,
    ScheduleState.PAUSED: labels.WARNING,
    ScheduleState.ENDED: labels.NEUTRAL,
    ScheduleState.BROKEN: labels.DANGER,
}
_FIRE_VARIANTS = {
    Fire.State.WAITING: labels.WARNING,
    Fire.State.ENQUEUED: labels.SUCCESS,
    Fire.State.MISSED: labels.DANGER,
    Fire.State.REFUSED: labels.DANGER,
    Fire.State.UNKNOWN: labels.DANGER,
}
_TASK_VARIANTS = {
    "active": labels.INFO,
    "completed": labels.SUCCESS,
    "archived": labels.DANGER,
    "retry": labels.WARNING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DueTime:
    """A due time in the zone of the schedule, and in that of the reader."""

    local: SafeString
    for_reader: SafeString


@dataclass(frozen=True, slots=True, kw_only=True)
class FireRow:
    """A fire in the table."""

    due: DueTime
    state: str
    variant: str
    is_triggered: bool
    reason: str
    task_id: str = ""
    task_url: str = ""
    task_state: str = ""
    task_variant: str = ""
    duration: str = ""
    missed_since: str = ""


def describe(timing: Timing) -> str:
    """Return when a schedule is due, in words."""
    return explain_cron(timing.cron) if timing.cron else f"Every {durations.humanize_exactly(timing.every_s)}"


def show_due(time: datetime, zone: str) -> DueTime:
    try:
        local = time.astimezone(get_zone(zone))
    except ValueError:  # it was removed from the IANA database: the schedule says so
        local = time.astimezone(UTC)
    for_reader = f"{to_reader(time):%a} {format_time(time)}"
    return DueTime(
        local=show_time(time, text=f"{local:%a %Y-%m-%d %H:%M:%S}"), for_reader=show_time(time, text=for_reader)
    )


def list_next(schedule: Schedule, count: int) -> list[DueTime]:
    return [show_due(time, schedule.time_zone) for time in schedule.list_next(count)]


def show_fires(schedule: Schedule, views: Sequence[FireView]) -> list[FireRow]:
    rows = []
    for view in views:
        fire = view.fire
        is_enqueued = fire.state == Fire.State.ENQUEUED
        state = (view.task_state.value if view.task_state else view.outcome or "deleted") if is_enqueued else ""
        since = fire.missed_since
        rows.append(
            FireRow(
                due=show_due(fire.due_at, schedule.time_zone),
                state=fire.state,
                variant=_FIRE_VARIANTS.get(Fire.State(fire.state), labels.NEUTRAL),
                is_triggered=fire.is_triggered,
                reason=fire.reason,
                task_id=fire.task_id if is_enqueued else "",
                task_url=_task_url(fire) if is_enqueued else "",
                task_state=state,
                task_variant=_TASK_VARIANTS.get(state, labels.NEUTRAL),
                duration=durations.humanize_ms(view.run_ms),
                missed_since="" if since is None else show_due(since, schedule.time_zone).local,
            )
        )
    return rows


def _task_url(fire: Fire) -> str:
    page = reverse("admin:tasks_task_change", args=[quote(fire.task_id)])
    return f"{page}?{urlencode({'queue': fire.redis_queue})}"

"""The numbers of the overview, and the notices above them, that a user may see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.urls import reverse

from queues.definitions import QueueDefinition
from queues.queries import get_fresh_catalog
from runqy.admin_site.labels import changelist_url
from runqy.admin_site.page_cache import get_or_read
from runqy.admin_site.times import format_absolute
from runqy.broker.states import TaskState
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.redis_connection import get_broker
from runqy.server.overview.notices import read_notices
from runqy.server.overview.queue_counts import MAX_AGE_S, STATES, OverviewCounts, read_counts
from schedules.queries import ScheduleState, count_by_state
from tasks.history.failure_counts import NO_FAILURES
from tasks.history.recent import RecentHistory, read_recent_history
from tasks.history.stats import read_last_hour

PERMISSIONS = (
    *("queues.view_queue", "workers.view_worker", "vaults.view_vault", "alerts.view_alert"),
    "schedules.view_schedule",
)
"""The permissions that the page depends on. Users with the same of these see the same."""
RECENT_MAX_AGE_S = 10.0
"""How long pages share the last minutes."""
UNKNOWN = "unknown"
NO_SAMPLES = "no recent samples"
"""Shown in place of a trend if no maintenance process samples the backlog, or nothing was pending until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """A number at the top of the page."""

    title: str
    value: int | None
    """None while Redis is unavailable."""
    url: str
    remark: str = ""


def read_numbers(permissions: frozenset[str], *, is_fresh: bool) -> dict[str, Any]:
    """Return the context of notices, numbers and the busiest queues.

    A page that is opened needs fresh ones, to show what the user has just changed, even in another process.
    """
    queues: Sequence[QueueDefinition] = ()
    counts: OverviewCounts | None = None
    try:
        catalog = get_fresh_catalog(max_age_s=0 if is_fresh else MAX_AGE_S)
        queues = catalog.definitions
        counts = read_counts(get_broker(), catalog, is_fresh=is_fresh)
    except (BrokerUnavailable, ConfigurationUnavailable):
        pass  # `read_notices` reports that there are no counts
    recent = _read_recent() if counts and "queues.view_queue" in permissions else None
    age_min = recent.backlog_age_min if recent and recent.sampled_at else None
    return {
        "notices": read_notices(counts, permissions),
        "stats": list(_list_stats(queues, counts, permissions, recent)),
        "rows": counts.list_busiest(recent) if counts and recent else [],
        "trend_note": f"trends unknown: {NO_SAMPLES}" if age_min is None else f"trends over {age_min:.0f} min",
        "has_queues": bool(queues),
        "has_counts": counts is not None,
    }


def _read_recent() -> RecentHistory:
    return get_or_read("overview:recent", RecentHistory, read_recent_history, max_age_s=RECENT_MAX_AGE_S)


def _list_stats(
    queues: Sequence[QueueDefinition],
    counts: OverviewCounts | None,
    permissions: frozenset[str],
    recent: RecentHistory | None,
) -> Iterator[Stat]:
    if "queues.view_queue" in permissions:
        yield _queue_stat(queues)
        yield from _task_stats(counts, recent)
        yield from _attempt_stats()
    if "schedules.view_schedule" in permissions:
        yield from _schedule_stat()
    if "workers.view_worker" in permissions:
        yield _worker_stat(counts)


def _queue_stat(queues: Sequence[QueueDefinition]) -> Stat:
    disabled = sum(not queue.is_enabled for queue in queues)
    remark = f"{disabled} disabled" if disabled else ""
    return Stat(title="Queues", value=len(queues), url=changelist_url("queues_queue"), remark=remark)


def _schedule_stat() -> Iterator[Stat]:
    """Yield the number of schedules, if there are any."""
    try:
        counts = count_by_state()
    except ConfigurationUnavailable:
        return
    states = (ScheduleState.PAUSED, ScheduleState.BROKEN)
    remark = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
    if number := sum(counts.values()):
        yield Stat(title="Schedules", value=number, url=changelist_url("schedules_schedule"), remark=remark)


def _task_stats(counts: OverviewCounts | None, recent: RecentHistory | None) -> Iterator[Stat]:
    # States that are rare are shown only if there are tasks in them.
    for state in STATES:
        title, url = state.capitalize(), changelist_url("tasks_task", state=state)
        if counts is None:
            yield Stat(title=title, value=None, url=url, remark=UNKNOWN)
        elif (number := counts.totals[state]) or state not in (TaskState.SCHEDULED, TaskState.RETRY):
            remark = _describe_backlog(number, recent) if state is TaskState.PENDING else ""
            yield Stat(title=title, value=number, url=url, remark=remark)


def _attempt_stats() -> Iterator[Stat]:
    hour = read_last_hour()
    completed, failed = (sum(counts.values()) for counts in (hour.completed, hour.failed))
    failures = sum(hour.failures.values(), start=NO_FAILURES)
    completed_url = changelist_url("tasks_task", outcome="completed", since=format_absolute(hour.since))
    yield Stat(title="Completed", value=completed, url=completed_url, remark="in the last hour")
    remark = f"{failures.describe_briefly()} in the last hour".lstrip() if failed else "in the last hour"
    yield Stat(title="Failed", value=failed, url=f"{reverse('admin:tasks_task_errors')}?period=hour", remark=remark)


def _describe_backlog(pending: int, recent: RecentHistory | None) -> str:
    if recent is None or recent.sampled_at is None:
        return NO_SAMPLES if pending else ""
    return recent.describe_total_trend(pending)


def _worker_stat(counts: OverviewCounts | None) -> Stat:
    url = changelist_url("workers_worker")
    if counts is None:
        return Stat(title="Workers", value=None, url=url, remark=UNKNOWN)
    workers = counts.workers
    remark = f"{workers.ready:,} ready"
    if workers.not_ready:
        remark += f", {workers.not_ready:,} not ready"
    return Stat(title="Workers", value=workers.total, url=url, remark=remark)

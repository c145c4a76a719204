"""The numbers of the overview, and the notices above them, that a user may see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.urls import reverse

from queues.definitions import QueueDefinition
from queues.queries import get_fresh_catalog
from runqy.admin_site.links import changelist_url
from runqy.broker.states import TaskState
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.overview.notices import list_notices
from runqy.overview.queue_counts import MAX_AGE_S, STATES, OverviewCounts, read_counts
from runqy.overview.trends import BacklogSamples, read_samples
from runqy.redis_connection import get_broker
from tasks.history.stats import read_last_hour

PERMISSIONS = ("queues.view_queue", "workers.view_worker", "vaults.view_vault", "alerts.view_alert")
"""The permissions that the page depends on. Users with the same of these see the same."""
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
        pass  # `list_notices` reports that there are no counts
    samples = read_samples() if counts and "queues.view_queue" in permissions else None
    return {
        "notices": list_notices(counts, permissions),
        "stats": list(_list_stats(queues, counts, permissions, samples)),
        "rows": counts.list_busiest(samples) if counts and "queues.view_queue" in permissions else [],
        "trend_note": f"trends over {samples.age_min:.0f} min" if samples else f"trends unknown: {NO_SAMPLES}",
        "has_queues": bool(queues),
        "has_counts": counts is not None,
    }


def _list_stats(
    queues: Sequence[QueueDefinition],
    counts: OverviewCounts | None,
    permissions: frozenset[str],
    samples: BacklogSamples | None,
) -> Iterator[Stat]:
    if "queues.view_queue" in permissions:
        yield _queue_stat(queues)
        yield from _task_stats(counts, samples)
        yield from _attempt_stats()
    if "workers.view_worker" in permissions:
        yield _worker_stat(counts)


def _queue_stat(queues: Sequence[QueueDefinition]) -> Stat:
    disabled = sum(not queue.is_enabled for queue in queues)
    remark = f"{disabled} disabled" if disabled else ""
    return Stat(title="Queues", value=len(queues), url=changelist_url("queues_queue"), remark=remark)


def _task_stats(counts: OverviewCounts | None, samples: BacklogSamples | None) -> Iterator[Stat]:
    # States that are rare are shown only if there are tasks in them.
    for state in STATES:
        title, url = state.capitalize(), changelist_url("tasks_task", state=state)
        if counts is None:
            yield Stat(title=title, value=None, url=url, remark=UNKNOWN)
        elif (number := counts.totals[state]) or state not in (TaskState.SCHEDULED, TaskState.RETRY):
            remark = _describe_backlog(number, samples) if state is TaskState.PENDING else ""
            yield Stat(title=title, value=number, url=url, remark=remark)


def _attempt_stats() -> Iterator[Stat]:
    hour = read_last_hour()
    completed, failed, ended = (sum(counts.values()) for counts in (hour.completed, hour.failed, hour.ended))
    completed_url = changelist_url("tasks_task", outcome="completed", since=f"{hour.since:%Y-%m-%dT%H:%M:%S}")
    yield Stat(title="Completed", value=completed, url=completed_url, remark="in the last hour")
    remark = f"{100 * failed / ended:.1f} % of attempts in the last hour" if failed else "in the last hour"
    yield Stat(title="Failed", value=failed, url=f"{reverse('admin:tasks_task_errors')}?period=hour", remark=remark)


def _describe_backlog(pending: int, samples: BacklogSamples | None) -> str:
    if samples is None:
        return NO_SAMPLES if pending else ""
    return samples.describe_total_trend(pending)


def _worker_stat(counts: OverviewCounts | None) -> Stat:
    url = changelist_url("workers_worker")
    if counts is None:
        return Stat(title="Workers", value=None, url=url, remark=UNKNOWN)
    workers = counts.workers
    remark = f"{workers.ready:,} ready"
    if workers.not_ready:
        remark += f", {workers.not_ready:,} not ready"
    return Stat(title="Workers", value=workers.total, url=url, remark=remark)

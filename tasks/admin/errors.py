"""The page of errors: groups by queue with their trend and newest sample, and actions on all tasks of a group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from runqy.admin_site.relative_time import RelativeTime
from runqy.admin_site.views import AdminView
from runqy.errors import RequestInvalid, choices_error
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.admin.filters import PERIODS, filter_context, read_filter, start_of_period
from tasks.admin.lists import bulk_links
from tasks.admin.permissions import can_view_payloads
from tasks.admin.presenters import task_url, tasks_url
from tasks.history.error_groups import (
    MAX_FAILURES,
    ErrorGroup,
    count_failures_by_queue,
    count_over_time,
    find_known_groups,
    find_start_of_commit,
    list_error_groups,
)
from tasks.history.stats import list_failing_queues
from tasks.models import TaskRun
from tasks.search import TaskQuery

MAX_GROUPS = 50
MAX_QUEUES = 12
"""The number of queues that the summary names: those with the most failures."""
_HEIGHT, _STEP = 24, 5
_LONGEST = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of a sparkline."""

    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group of errors on the page."""

    group: ErrorGroup
    is_new: bool
    """The group has no error from before the commit."""
    first_seen: RelativeTime
    last_seen: RelativeTime
    bars: list[Bar]
    trend: str
    """The sparkline in words."""
    sample_url: str
    tasks_url: str
    since_commit_url: str
    bulk_actions: list[tuple[TaskAction, str, dict[str, str]]]
    is_visible: bool

    @property
    def sample(self) -> TaskRun:
        return self.group.sample


class ErrorsView(AdminView):
    """The groups of errors of a period, or of the time since a commit first ran; the largest first."""

    title = "Errors"
    template_name = "admin/tasks/task/errors.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request = self.request
        queue, commit = request.GET.get("queue", "").strip(), request.GET.get("since_commit", "").strip()
        period = request.GET.get("period", "") or "day"
        if period not in PERIODS:
            raise RequestInvalid(f"period: {choices_error(PERIODS)}")
        started = find_start_of_commit(commit, queue=queue) if commit else None
        start = started or start_of_period(period) or timezone.now() - _LONGEST
        run_filter = TaskQuery(queue=queue, since=start).run_filter()
        # One more than is shown, to know whether there are more.
        found = list_error_groups(run_filter, limit=MAX_GROUPS + 1)
        shown = found.groups[:MAX_GROUPS]
        known = find_known_groups(shown, start) if started else set()
        # The trends count the same failures as the groups.
        counted = replace(run_filter, since=max(start, found.counted_after or start))
        trends = count_over_time(shown, counted, start=start, end=timezone.now())
        by_queue = count_failures_by_queue(run_filter, counted_after=found.counted_after)
        limits = {"since_commit": commit} if started else {"period": period}
        context = super().get_context_data(**kwargs) | filter_context(request, read_filter(request))
        return context | {
            "section": "errors",
            "queue": queue,
            "commit": commit,
            "is_commit_known": started is not None,
            "start": start.astimezone(UTC),
            "period": period,
            "periods": [(value, name) for value, (name, _) in PERIODS.items()],
            "rows": [
                _row(request, group, start, trends, is_new=bool(started) and _key(group) not in known)
                for group in shown
            ],
            "has_more": len(found.groups) > MAX_GROUPS,
            "is_partial": found.is_partial,
            "max_failures": MAX_FAILURES,
            "total": sum(count for _, count in by_queue),
            "by_queue": [(name, count, _errors_url(queue=name, **limits)) for name, count in by_queue[:MAX_QUEUES]],
            "queue_count": len(by_queue),
            "more_queues": max(len(by_queue) - MAX_QUEUES, 0),
            "width": _STEP * 24,
            "height": _HEIGHT,
        }


class FailingQueuesView(AdminView):
    """The queues that fail most. A part of the overview."""

    template_name = "admin/tasks/task/failing_queues.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        rows = [
            {
                "queue": queue,
                "tasks_url": tasks_url(TaskQuery(queue=queue.name, fingerprint=queue.fingerprint), period="hour"),
                "is_visible": can_view_payloads(self.request.user, queue.name),
            }
            for queue in list_failing_queues()
        ]
        return super().get_context_data(**kwargs, rows=rows)


def _row(
    request: HttpRequest, group: ErrorGroup, start: datetime, trends: dict[tuple[str, str], list[int]], *, is_new: bool
) -> GroupRow:
    now_ns = get_broker().now_ns()
    query = TaskQuery(queue=group.queue, fingerprint=group.fingerprint, since=start)
    counts = trends[_key(group)]
    return GroupRow(
        group=group,
        is_new=is_new,
        first_seen=RelativeTime.of_datetime(group.first_seen, now_ns),
        last_seen=RelativeTime.of_datetime(group.last_seen, now_ns),
        bars=_bars(counts),
        trend=f"{group.count} in {len(counts)} intervals: {', '.join(map(str, counts))}",
        sample_url=task_url(group.sample.task_id, group.sample.redis_queue),
        tasks_url=tasks_url(query),
        since_commit_url=_errors_url(queue=group.queue, since_commit=commit) if (commit := group.sample.commit) else "",
        bulk_actions=bulk_links(request, query),
        is_visible=can_view_payloads(request.user, group.queue),
    )


def _errors_url(**fields: str) -> str:
    return f"{reverse('admin:tasks_task_errors')}?{urlencode(fields)}"


def _bars(counts: Sequence[int]) -> list[Bar]:
    highest = max(counts) or 1
    heights = [max(round(count / highest * _HEIGHT, 1), 2 if count else 1) for count in counts]
    return [Bar(x=number * _STEP, y=_HEIGHT - height, height=height) for number, height in enumerate(heights)]


def _key(group: ErrorGroup) -> tuple[str, str]:
    return group.queue, group.fingerprint

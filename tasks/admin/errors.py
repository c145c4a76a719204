"""The page of errors: groups by queue with their trend and newest sample, and actions on all tasks of a group.

Groups that did not occur before a release or a commit are marked as new since it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from queues.releases import find_commits
from runqy.admin_site.times import RelativeTime
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
    with_samples_of,
)
from tasks.history.releases import ReleaseStart, find_new_since_release, list_release_starts
from tasks.history.stats import list_failing_queues
from tasks.models import TaskRun
from tasks.search import TaskQuery

MAX_GROUPS = 50
MAX_CHECKED = 500
"""The number of groups, the largest ones, among which those that are new are found."""
MAX_QUEUES = 12
"""The number of queues that the summary names: those with the most failures."""
_HEIGHT, _STEP = 24, 5
_LONGEST = timedelta(days=7)
_RELEASE_NUMBER = re.compile(r"[1-9]\d{0,8}")


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
    new_since: str
    """The release or the commit before which the group did not occur; empty if it did."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """What the groups of a queue may be new since."""

    name: str
    commit: str
    at: datetime


class ErrorsView(AdminView):
    """The groups of errors of a period, or of the time since a release or a commit first ran; the largest first."""

    title = "Errors"
    template_name = "admin/tasks/task/errors.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request = self.request
        asked = {name: request.GET.get(name, "").strip() for name in ("queue", "since_release", "since_commit")}
        queue, release, commit = asked.values()
        period, is_only_new = request.GET.get("period", "") or "day", request.GET.get("new") == "1"
        if period not in PERIODS:
            raise RequestInvalid(f"period: {choices_error(PERIODS)}")
        queue_name = TaskQuery(queue=queue).run_filter().queue
        since = _find_since(queue_name, release, commit)
        start = since.at if since else start_of_period(period) or timezone.now() - _LONGEST
        run_filter = TaskQuery(queue=queue, since=start).run_filter()
        # One more than is shown, to know whether there are more.
        found = list_error_groups(run_filter, limit=MAX_CHECKED if is_only_new else MAX_GROUPS + 1)
        groups, new_since = found.groups, _find_new(found.groups, since)
        if is_only_new:
            groups = [group for group in groups if group.key in new_since]
        commits = {key: each.commit for key, each in new_since.items()}
        if since:
            commits = {group.key: since.commit for group in groups}
        shown = with_samples_of(groups[:MAX_GROUPS], run_filter, commits)
        # The trends count the same failures as the groups.
        counted = replace(run_filter, since=max(start, found.counted_after or start))
        trends = count_over_time(shown, counted, start=start, end=timezone.now())
        by_queue = count_failures_by_queue(run_filter, counted_after=found.counted_after)
        samples = [(group.queue, group.sample.commit) for group in shown]
        limits = {"since_release": release} if release else {"since_commit": commit}
        limits = limits if since else {"period": period}
        context = super().get_context_data(**kwargs) | filter_context(request, read_filter(request))
        return (
            context
            | asked
            | {
                "section": "errors",
                "since": since,
                "start": start.astimezone(UTC),
                "period": period,
                "periods": [(value, name) for value, (name, _) in PERIODS.items()],
                "is_only_new": is_only_new,
                "rows": [_row(request, group, start, trends, new_since.get(group.key)) for group in shown],
                "commits": find_commits(samples),
                "has_more": len(groups) > MAX_GROUPS or (is_only_new and len(found.groups) == MAX_CHECKED),
                "max_checked": MAX_CHECKED,
                "is_partial": found.is_partial,
                "max_failures": MAX_FAILURES,
                "total": sum(count for _, count in by_queue),
                "by_queue": [(name, count, _errors_url(queue=name, **limits)) for name, count in by_queue[:MAX_QUEUES]],
                "queue_count": len(by_queue),
                "more_queues": max(len(by_queue) - MAX_QUEUES, 0),
                "width": _STEP * 24,
                "height": _HEIGHT,
            }
        )


def _find_since(queue: str, release: str, commit: str) -> Since | None:
    """Return the release or commit that a URL names; None if it names none, or one that has run no task."""
    if not release:
        at = find_start_of_commit(commit, queue=queue) if commit else None
        return Since(name="the commit", commit=commit, at=at) if at else None
    if not queue or not _RELEASE_NUMBER.fullmatch(release):
        raise RequestInvalid("since_release: Must be the number of a release of the queue that `queue` names.")
    starts = {start.number: start for start in list_release_starts(queue)}
    found = starts.get(int(release))
    return _since_release(found) if found else None


def _find_new(groups: Sequence[ErrorGroup], since: Since | None) -> dict[tuple[str, str], Since]:
    """Return what each group is new since, unless it is known: by default the newest release of its queue."""
    if since is None:
        return {key: _since_release(start) for key, start in find_new_since_release(groups).items()}
    known = find_known_groups(groups, {group.queue: since.at for group in groups})
    return {group.key: since for group in groups if group.key not in known}


def _since_release(start: ReleaseStart) -> Since:
    return Since(name=f"release {start.number}", commit=start.commit, at=start.at)


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
    request: HttpRequest,
    group: ErrorGroup,
    start: datetime,
    trends: dict[tuple[str, str], list[int]],
    new_since: Since | None,
) -> GroupRow:
    now_ns = get_broker().now_ns()
    query = TaskQuery(queue=group.queue, fingerprint=group.fingerprint, since=start)
    counts = trends[group.key]
    return GroupRow(
        group=group,
        new_since=new_since.name if new_since else "",
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

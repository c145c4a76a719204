"""The page of a queue's releases: how the runs of each went, beside those of the one before, and its new errors."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Avg, Count, Q
from django.urls import reverse
from django.utils.http import urlencode

from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.releases import list_releases
from runqy import clock
from runqy.admin_site import labels
from runqy.admin_site.times import RelativeTime
from runqy.admin_site.views import AdminView
from runqy.broker.states import FAILURES
from runqy.core.formats.durations import humanize_ms
from runqy.errors import RequestInvalid
from tasks.actions import TaskAction
from tasks.admin.lists import bulk_links
from tasks.admin.permissions import can_view_payloads
from tasks.admin.presenters import task_url, tasks_url
from tasks.history.error_groups import ErrorGroup, find_known_groups, list_error_groups, with_samples_of
from tasks.history.queries import RunFilter, filter_runs
from tasks.history.releases import find_frequent_errors, list_release_starts, runs_of_release
from tasks.search import TaskQuery

_VARIANTS = {
    ReleaseState.ROLLING_OUT: labels.INFO,
    ReleaseState.LIVE: labels.SUCCESS,
    ReleaseState.SUPERSEDED: labels.NEUTRAL,
    ReleaseState.REVERTED: labels.DANGER,
    ReleaseState.FAILED: labels.DANGER,
}
_COUNTED_RELEASES, _COUNTED_RUNS = 10, 1_000
"""Of the newest releases the newest runs are counted: a page reads so many rows, however long a history is."""
_MAX_GROUPS = 500
"""The number of groups of errors, the largest ones, among which those that are new are found."""
_SHOWN_ERRORS = 3
_REFRESH_MS = 2_000
"""A release that does not start is reverted in about two seconds. The page of ten long releases takes 80 ms of CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What became of the runs of a release."""

    number: int
    runs: int
    failed_percent: float
    archived: int
    """Those that ended their task, as a failure."""
    errors: int
    """The number of groups of errors among them."""
    mean: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    """A release on the page."""

    release: Release
    is_of_tag: bool
    created: RelativeTime
    figures: RunFigures | None
    """None: no run has ended, or the runs are not counted."""
    before: RunFigures | None
    """The figures of the release that was live before and has runs."""
    is_counted: bool
    new_errors: Sequence[ErrorGroup]
    """The groups that first occurred since it began to run tasks, and before the next one did."""
    frequent_error: ErrorGroup | None
    """That of most of its failed runs, if it was reverted."""
    run_again: Mapping[str, str]
    """The fields of the form that runs again the tasks that it archived; empty if there are none, or it may run on."""

    @property
    def state(self) -> tuple[str, str]:
        state = ReleaseState(self.release.state)
        return str(state.label), _VARIANTS[state]

    @property
    def frequent_error_url(self) -> str:
        group = self.frequent_error
        return tasks_url(TaskQuery(queue=group.queue, fingerprint=group.fingerprint)) if group else ""

    @property
    def example_url(self) -> str:
        return (
            task_url(self.frequent_error.sample.task_id, self.frequent_error.sample.redis_queue)
            if self.frequent_error
            else ""
        )

    @property
    def errors_url(self) -> str:
        return self._errors_url(since_commit=self.release.commit)

    @property
    def new_errors_url(self) -> str:
        return self._errors_url(since_release=str(self.release.number), new="1")

    @property
    def shown_errors(self) -> list[tuple[ErrorGroup, str]]:
        return [
            (group, tasks_url(TaskQuery(queue=group.queue, fingerprint=group.fingerprint)))
            for group in self.new_errors[:_SHOWN_ERRORS]
        ]

    @property
    def more_errors(self) -> int:
        return max(len(self.new_errors) - _SHOWN_ERRORS, 0)

    @property
    def tasks_url(self) -> str:
        return tasks_url(TaskQuery(queue=self.release.queue.name, commit=self.release.commit))

    def _errors_url(self, **fields: str) -> str:
        query = urlencode({"queue": self.release.queue.name, **fields})
        return f"{reverse('admin:tasks_task_errors')}?{query}"


class ReleasesView(AdminView):
    """The releases of a queue, the newest first."""

    template_name = "admin/tasks/task/releases.html"

    def has_permission(self) -> bool:
        return self.request.user.has_perm("queues.view_queue")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        if not (name := self.request.GET.get("queue", "")):
            raise RequestInvalid("queue: Must be the name of a queue.")
        queue, releases = list_releases(name=name)
        counted = [release for release in releases if release.commit][:_COUNTED_RELEASES]
        run_filters = {release.number: runs_of_release(queue, release, counted) for release in counted}
        figures = {release.number: _count_runs(release, run_filters[release.number]) for release in counted}
        frequent_errors = find_frequent_errors(queue, releases)
        new_errors = _find_new_errors(queue)
        now_ns = clock.now_ns()
        row = Queue.objects.get(name=queue)
        # A redeploy of a tag has it in place of the branch.
        branches = {row.branch} | {each.branch for each in releases if each.source != ReleaseSource.MANUAL}
        rows = [
            ReleaseRow(
                release=each,
                is_of_tag=each.branch not in branches,
                created=RelativeTime.of_datetime(each.created_at, now_ns),
                figures=figures.get(each.number),
                before=_find_before(each, counted, figures),
                is_counted=each.number in figures,
                new_errors=new_errors.get(each.number, []),
                frequent_error=frequent_errors.get(each.number),
                run_again=self._run_again(each, figures.get(each.number), run_filters.get(each.number)),
            )
            for each in releases
        ]
        return super().get_context_data(**kwargs) | {
            "title": f"Releases of {queue}",
            "queue": row,
            "rows": rows,
            "commits": {each.commit: each for each in releases},
            "rolling_out": next((each for each in releases if each.state == ReleaseState.ROLLING_OUT), None),
            "interval": _REFRESH_MS,
            "is_visible": can_view_payloads(self.request.user, queue),
            "counted_runs": _COUNTED_RUNS,
            "can_change": self.request.user.has_perm("queues.change_queue"),
        }

    def _run_again(
        self, release: Release, figures: RunFigures | None, run_filter: RunFilter | None
    ) -> Mapping[str, str]:
        is_running = release.state in (ReleaseState.LIVE, ReleaseState.ROLLING_OUT)
        if is_running or run_filter is None or figures is None or not figures.archived:
            return {}
        query = TaskQuery(
            queue=run_filter.queue,
            commit=run_filter.commit,
            outcomes=tuple(sorted(FAILURES)),
            since=run_filter.since,
            until=run_filter.until,
        )
        links = bulk_links(self.request, query)
        return next((fields for action, _, fields in links if action is TaskAction.RUN), {})


def _find_before(
    release: Release, others: Sequence[Release], figures: Mapping[int, RunFigures | None]
) -> RunFigures | None:
    """Return the figures of the release that was live when another one was made, or before that if it has no runs."""
    was_live = [(other.live_at, other.number) for other in others if other.live_at and other.number < release.number]
    earlier = [number for at, number in sorted(was_live, reverse=True) if at <= release.created_at]
    return next((found for number in earlier if (found := figures[number])), None)


def _count_runs(release: Release, run_filter: RunFilter) -> RunFigures | None:
    newest = filter_runs(run_filter).order_by("-ended_at", "-id")[:_COUNTED_RUNS]
    found = newest.aggregate(
        runs=Count("pk"),
        failures=Count("pk", filter=Q(outcome__in=FAILURES)),
        archived=Count("pk", filter=Q(outcome__in=FAILURES, is_final=True)),
        errors=Count("fingerprint", distinct=True),
        mean_ms=Avg("run_ms"),
    )
    if not found["runs"]:
        return None
    mean_ms = found["mean_ms"]
    return RunFigures(
        number=release.number,
        runs=found["runs"],
        archived=found["archived"],
        failed_percent=100 * found["failures"] / found["runs"],
        errors=found["errors"],
        mean=humanize_ms(round(mean_ms)) if mean_ms is not None else "",
    )


def _find_new_errors(queue: str) -> Mapping[int, Sequence[ErrorGroup]]:
    """Return the errors that first occurred since each of the newest releases began to run tasks, and before the next.

    Raise SearchTooSlow.
    """
    starts = list_release_starts(queue)[:_COUNTED_RELEASES]
    if not starts:
        return {}
    run_filter = RunFilter(queue=queue, since=starts[-1].at)
    found = list_error_groups(run_filter, limit=_MAX_GROUPS)
    counted_from: datetime = max(starts[-1].at, found.counted_after or starts[-1].at)
    known = find_known_groups(found.groups, {queue: counted_from})
    began = {
        group.key: next(start for start in starts if start.at <= group.first_seen)
        for group in found.groups
        if group.key not in known
    }
    groups = [group for group in found.groups if group.key in began]
    new: dict[int, list[ErrorGroup]] = defaultdict(list)
    for group in with_samples_of(groups, run_filter, {key: start.commit for key, start in began.items()}):
        new[began[group.key].number].append(group)
    return new

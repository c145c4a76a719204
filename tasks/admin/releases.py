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
from runqy.admin_site.relative_time import RelativeTime
from runqy.admin_site.views import AdminView
from runqy.broker.states import FAILURES
from runqy.errors import RequestInvalid
from runqy.formats.durations import humanize_ms
from tasks.admin.permissions import can_view_payloads
from tasks.admin.presenters import tasks_url
from tasks.history.error_groups import ErrorGroup, find_known_groups, list_error_groups
from tasks.history.queries import RunFilter
from tasks.history.release_starts import list_release_starts
from tasks.models import TaskRun
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

    @property
    def state(self) -> tuple[str, str]:
        state = ReleaseState(self.release.state)
        return str(state.label), _VARIANTS[state]

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
        figures = {release.number: _count_runs(queue, release, counted) for release in counted}
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


def _find_before(
    release: Release, others: Sequence[Release], figures: Mapping[int, RunFigures | None]
) -> RunFigures | None:
    """Return the figures of the release that was live when another one was made, or before that if it has no runs."""
    was_live = [(other.live_at, other.number) for other in others if other.live_at and other.number < release.number]
    earlier = [number for at, number in sorted(was_live, reverse=True) if at <= release.created_at]
    return next((found for number in earlier if (found := figures[number])), None)


def _count_runs(queue: str, release: Release, others: Sequence[Release]) -> RunFigures | None:
    """Count the runs of a release. Others with the same commit, of which one is a rollback, have runs of their own."""
    alike = [other for other in others if other.commit == release.commit]
    runs = TaskRun.objects.filter(queue=queue, commit=release.commit)
    if any(other.number < release.number for other in alike):
        runs = runs.filter(ended_at__gte=release.created_at)
    if later := [other.created_at for other in alike if other.number > release.number]:
        runs = runs.filter(ended_at__lt=min(later))
    newest = runs.order_by("-ended_at", "-id")[:_COUNTED_RUNS]
    found = newest.aggregate(
        runs=Count("pk"),
        failures=Count("pk", filter=Q(outcome__in=FAILURES)),
        errors=Count("fingerprint", distinct=True),
        mean_ms=Avg("run_ms"),
    )
    if not found["runs"]:
        return None
    mean_ms = found["mean_ms"]
    return RunFigures(
        number=release.number,
        runs=found["runs"],
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
    found = list_error_groups(RunFilter(queue=queue, since=starts[-1].at), limit=_MAX_GROUPS)
    counted_from: datetime = max(starts[-1].at, found.counted_after or starts[-1].at)
    known = find_known_groups(found.groups, {queue: counted_from})
    new: dict[int, list[ErrorGroup]] = defaultdict(list)
    for group in found.groups:
        if group.key not in known:
            new[next(start.number for start in starts if start.at <= group.first_seen)].append(group)
    return new

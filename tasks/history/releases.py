"""The runs of releases: when they began, since errors that first occurred later are new since them, and the most
frequent error of one that was reverted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, QuerySet, Subquery

from queues.models import Release, ReleaseSource, ReleaseState
from runqy.errors import SearchTooSlow
from tasks.history.error_groups import ErrorGroup, find_known_groups, list_error_groups
from tasks.history.queries import RunFilter
from tasks.models import TaskRun


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStart:
    """A release that has run tasks."""

    queue: str
    number: int
    commit: str
    at: datetime
    """When its first run ended. Workers report runs sooner than a rollout notes that they are ready."""


def list_release_starts(queue: str) -> list[ReleaseStart]:
    """Return the releases of a queue that have run tasks, the newest first."""
    return _list(Release.objects.filter(queue__name=queue))


def find_newest_starts(queues: Collection[str]) -> Mapping[str, ReleaseStart]:
    """Return, by queue, the newest release that has run tasks. Nothing came before the first, which is left out."""
    releases = Release.objects.filter(queue__name__in=queues).exclude(source=ReleaseSource.FIRST)
    return {start.queue: start for start in reversed(_list(releases))}


def find_new_since_release(groups: Sequence[ErrorGroup]) -> Mapping[tuple[str, str], ReleaseStart]:
    """Return, by queue and fingerprint, the queue's newest release, for groups that are new since it.

    Raise SearchTooSlow.
    """
    newest = find_newest_starts({group.queue for group in groups})
    known = find_known_groups(groups, {queue: start.at for queue, start in newest.items()})
    return {group.key: newest[group.queue] for group in groups if group.key not in known}


def _list(releases: QuerySet[Release]) -> list[ReleaseStart]:
    runs = TaskRun.objects.filter(
        queue=OuterRef("queue__name"), commit=OuterRef("commit"), ended_at__gte=OuterRef("created_at")
    )
    first = Subquery(runs.order_by("ended_at", "id").values("ended_at")[:1])
    found = releases.exclude(commit="").annotate(first=first).order_by("-number")
    return [
        ReleaseStart(queue=queue, number=number, commit=commit, at=at)
        for queue, number, commit, at in found.values_list("queue__name", "number", "commit", "first")
        if at is not None
    ]


SEARCHED_RELEASES = 10
"""The number of reverted releases of a queue, the newest ones, whose runs are searched."""


def runs_of_release(queue: str, release: Release, others: Sequence[Release]) -> RunFilter:
    """Return the filter of a release's runs. Those with the same commit, such as a rollback, have runs of their own."""
    alike = [other for other in others if other.commit == release.commit]
    is_repeated = any(other.number < release.number for other in alike)
    later: list[datetime] = [other.created_at for other in alike if other.number > release.number]
    return RunFilter(
        queue=queue,
        commit=release.commit,
        since=release.created_at if is_repeated else None,
        until=min(later, default=None),
    )


def find_frequent_errors(queue: str, releases: Sequence[Release]) -> Mapping[int, ErrorGroup]:
    """Return, by number, the most frequent error of the newest releases that were reverted, if the history has one."""
    reverted = [each for each in releases if each.state == ReleaseState.REVERTED and each.commit]
    found: dict[int, ErrorGroup] = {}
    for release in reverted[:SEARCHED_RELEASES]:
        try:
            groups = list_error_groups(runs_of_release(queue, release, releases), limit=1).groups
        except SearchTooSlow:  # the releases are worth more than their errors
            break
        if groups:
            found[release.number] = groups[0]
    return found

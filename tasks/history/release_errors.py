"""The runs of a release, and the most frequent error of one that was reverted."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from queues.models import Release, ReleaseState
from runqy.errors import SearchTooSlow
from tasks.history.error_groups import ErrorGroup, list_error_groups
from tasks.history.queries import RunFilter

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

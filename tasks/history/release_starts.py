"""When the releases of queues began to run tasks: errors that first occurred later are new since them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, QuerySet, Subquery

from queues.models import Release, ReleaseSource
from tasks.history.error_groups import ErrorGroup, find_known_groups
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

"""The releases of a queue as marks of its charts: what went live, was rolled back or was reverted, and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from queues.models import Release, ReleaseSource, ReleaseState

_TAKEN_BACK = (ReleaseState.REVERTED, ReleaseState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseMark:
    """A release in an interval of the charts."""

    index: int
    number: int
    color: str
    """That of a series."""
    at: datetime
    text: str


def list_release_marks(queue: str, starts: Sequence[datetime], *, end: datetime) -> list[ReleaseMark]:
    """Return the releases of a queue that changed in the intervals with these starts, in order of time. One query."""
    if not queue or not starts:
        return []
    period = (starts[0], end)
    taken_back = Q(ended_at__range=period, state__in=_TAKEN_BACK)
    releases = Release.objects.filter(Q(live_at__range=period) | taken_back, queue__name=queue)
    changes = sorted(((_changed_at(release), release) for release in releases), key=lambda change: change[0])
    return [
        ReleaseMark(
            index=max(index for index, start in enumerate(starts) if start <= at),
            number=release.number,
            color=_color(release),
            at=at,
            text=f"Release {release.number} {_verb(release)}: {_subject(release)}",
        )
        for at, release in changes
    ]


def _changed_at(release: Release) -> datetime:
    at = release.ended_at if release.state in _TAKEN_BACK else release.live_at
    assert at is not None  # noqa: S101 (the query found it by this time)
    return at


def _color(release: Release) -> str:
    if release.state in _TAKEN_BACK:
        return "bad"
    return "other" if release.source == ReleaseSource.ROLLBACK else "main"


def _subject(release: Release) -> str:
    """Return the subject of its commit, or the commit, or what it is the newest commit of."""
    return release.subject or release.commit[:12] or release.branch


def _verb(release: Release) -> str:
    if release.state in _TAKEN_BACK:
        return str(ReleaseState(release.state).label)
    return f"rolled back to {release.like}" if release.source == ReleaseSource.ROLLBACK else "went live"

"""Releases of the queues of a demo instance: some went live, one was rolled back, one was reverted."""

from datetime import timedelta

from django.utils import timezone

from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.releases import CODE_COLUMNS, publish_releases, release_changes
from runqy.audit.operations import record
from runqy.configuration.operations import configuration_change
from tools.demo.runs import make_commit

_REASON = "office-mini:35 could not start it: ModuleNotFoundError: No module named 'addresses' (main.py, line 3)"
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_FIRST, _MANUAL, _ROLLBACK = ReleaseSource.FIRST, ReleaseSource.MANUAL, ReleaseSource.ROLLBACK
_SUPERSEDED, _LIVE, _REVERTED = ReleaseState.SUPERSEDED, ReleaseState.LIVE, ReleaseState.REVERTED
_RELEASES: dict[str, tuple[tuple[ReleaseSource, ReleaseState, timedelta, int, str], ...]] = {
    "invoices": (
        (_FIRST, _SUPERSEDED, 6 * _DAY, 1, "Render as PDF/A"),
        (_MANUAL, _SUPERSEDED, _DAY, 2, "Print the VAT id"),
        (_MANUAL, _SUPERSEDED, 5 * _HOUR, 3, "Send mail through the new relay, with a queue of its own"),
        (_ROLLBACK, _LIVE, 4 * _HOUR, 2, "Print the VAT id"),
        (_MANUAL, _REVERTED, _HOUR / 2, 4, "Read addresses from the shop"),
    ),
    "image-tagging": (
        (_FIRST, _SUPERSEDED, 6 * _DAY, 1, "Tag with the small model"),
        (_MANUAL, _LIVE, _DAY, 2, "Read larger images"),
    ),
}
"""Of each queue in order: source, state, age, the number of the commit, and its subject."""


def make_releases() -> None:
    """Store the releases, each of which ended when the next one began, and publish those that are live."""
    now = timezone.now()
    for name, releases in _RELEASES.items():
        queue = Queue.objects.get(name=name)
        code = {column: getattr(queue, column) for column in CODE_COLUMNS}
        for number, (source, state, age, commit, subject) in enumerate(releases, 1):
            at = now - age
            is_reverted = state is _REVERTED
            Release.objects.create(
                queue=queue,
                number=number,
                commit=make_commit(name, commit),
                subject=subject,
                source=source,
                state=state,
                author="Ada Lovelace",
                committed_at=at - _HOUR,
                actor="grace",
                created_at=at,
                ready_at=at,
                live_at=None if is_reverted else at,
                ended_at=at if is_reverted else None,
                like=2 if source is _ROLLBACK else None,
                reason=_REASON if is_reverted else "",
                **code,
            )
        with configuration_change() as change:
            publish_releases(change, queue)
            *_, before, live = queue.releases.filter(live_at__isnull=False).order_by("number")
            changes = release_changes(before, live)
            record(action="queue.released", object_kind="queue", object_name=name, changes=changes)

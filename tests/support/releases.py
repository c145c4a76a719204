"""Store releases in the database, for tests that read them."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.releases import code_of


def insert_release(queue: Queue, commit: str, **columns: Any) -> Release:
    """Store the next release of a queue, which is live unless `columns` have another state."""
    at = columns.setdefault("created_at", timezone.now())
    defaults = {
        "number": queue.releases.count() + 1,
        "subject": "Read <larger> images",
        "author": "Ada",
        "committed_at": at - timedelta(hours=2),
        "source": ReleaseSource.MANUAL,
        "state": ReleaseState.LIVE,
        "live_at": at,
    }
    return Release.objects.create(queue=queue, commit=commit, **code_of(queue) | defaults | columns)

"""Releases in the database, and workers that run them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.utils import timezone

from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.releases import code_of
from runqy.broker.workers.records import WorkerRecord, WorkerState

OLD, NEW = "a" * 40, "b" * 40


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


def worker(name: str, release: int = 1, **changes: Any) -> WorkerRecord:
    """Return a ready worker of the queue `mail`, which runs the commit OLD as release 1, or NEW as another."""
    record = WorkerRecord(
        worker_id=name,
        host="h",
        pid=int(name[1:]),
        server_id=name,
        queue="mail",
        redis_queues={"mail": 1},
        state=WorkerState.READY,
        commit=OLD if release == 1 else NEW,
        release=release,
        started_at_s=1,
    )
    return replace(record, **changes)


W1, W2, W3 = worker("w1"), worker("w2"), worker("w3")
N1, N2, N3 = (worker(name, 2) for name in ("w1", "w2", "w3"))

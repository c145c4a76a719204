"""Store the runs of the environment's Redis in its database for `tools.benchmarks.history`, and print the rate."""

import json
import sys
import time
from collections.abc import Sequence

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402

from runqy.redis_connection import get_broker  # noqa: E402
from tasks.history import record  # noqa: E402
from tasks.history.record import QueueEntry, store_entries  # noqa: E402
from tasks.models import TaskRun  # noqa: E402
from tasks.transactions import WriteTransaction  # noqa: E402

if __name__ == "__main__":
    queues = sys.argv[1:]
    settings.RUNQY_HISTORY_MAX_RATE = 0
    spans: list[float] = []

    def timed(entries: Sequence[QueueEntry], *, max_rate: int) -> WriteTransaction:
        """Store entries, and record for how long their transaction held the lock."""
        written = store_entries(entries, max_rate=max_rate)
        spans.append(written.held_s * 1000)
        return written

    record.store_entries = timed
    broker, recorder, count = get_broker(), record.RunRecorder(), 0
    connection.ensure_connection()
    started_s, used_s = time.perf_counter(), time.process_time()
    while read := recorder.record_all(broker, queues, None):
        count += read
    took_s = time.perf_counter() - started_s
    spans.sort()
    print(
        json.dumps(
            {
                "rate": count / took_s,
                "cpu_rate": count / (time.process_time() - used_s),
                "p95_ms": spans[int(len(spans) * 0.95)],
                "longest_ms": spans[-1],
                "rows": TaskRun.objects.count(),
            }
        )
    )

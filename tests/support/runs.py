"""Store runs in the database, for tests that read the history."""

from itertools import count
from typing import Any

from runqy import clock
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import EndedRun
from tasks.history.record import store_runs
from tasks.history.rows import QueueIdentity
from tasks.models import TaskRun

_numbers = count(1)


def make_run(**fields: Any) -> EndedRun:
    """Return a run that completed now, after a second in the queue and a second of work."""
    number = next(_numbers)
    ended_ns = fields.pop("ended_ns", clock.now_ns())
    defaults: dict[str, Any] = {
        "task_id": f"task-{number}",
        "run_id": f"run-{number}",
        "outcome": RunOutcome.COMPLETED,
        "is_final": True,
        "attempt": 1,
        "enqueued_ns": ended_ns - 2 * 10**9,
        "started_ns": ended_ns - 10**9,
        "worker_id": "w1",
        "payload": b'{"n":1}',
    }
    return EndedRun(ended_ns=ended_ns, **defaults | fields)


def make_failure(error: str = "ValueError: no such user: 17", **fields: Any) -> EndedRun:
    return make_run(**{"outcome": RunOutcome.FAILED, "error": error} | fields)


def insert_runs(*runs: EndedRun, queue: str = "mail", sub_queue: str = "", redis_queue: str = "") -> list[TaskRun]:
    """Store runs and their rollups. Return the rows in the same order."""
    identity = QueueIdentity(redis_queue=redis_queue or queue, queue=queue, sub_queue=sub_queue)
    store_runs(identity, runs)
    rows = TaskRun.objects.filter(task_id__in=[run.task_id for run in runs])
    by_key = {(row.task_id, row.run_id): row for row in rows}
    return [by_key[run.task_id, run.run_id] for run in runs]

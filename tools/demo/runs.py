"""The history of a week of a demo instance, in which rows and counts agree, and a bulk action on some of its runs."""

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import EndedRun
from runqy.broker.tasks.archive_reasons import LEASE_EXPIRED, timeout_error
from tasks.actions import TaskAction
from tasks.bulk_actions import create_bulk_action, preview_bulk_action
from tasks.bulk_runner import run_bulk_actions
from tasks.history.record import store_runs
from tasks.history.rollups import (
    MINUTE_S,
    RollupDelta,
    RollupDeltas,
    add_to_histogram,
    add_to_rollups,
    floor_time,
)
from tasks.history.rows import QueueIdentity
from tasks.search import TaskQuery

FAILING_S = 1800
"""How long invoices have been failing: two a minute, which `make_ended_tasks` creates, while three complete."""
_SAMPLED, _FAILED = 160, 240
"""The number of tasks of each Redis queue that have rows: a sample of all, and more that failed."""
_FAILURES = (
    [RunOutcome.RETRIED, RunOutcome.COMPLETED],
    [RunOutcome.RETRIED, RunOutcome.RETRIED, RunOutcome.FAILED],
    [RunOutcome.FAILED],
    [RunOutcome.TIMED_OUT],
    [RunOutcome.LOST],
    [RunOutcome.CANCELED],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKind:
    """The runs of a Redis queue in the history."""

    queue: str
    sub_queue: str = ""
    payload: bytes
    seconds: float
    """A typical duration."""
    errors: tuple[str, ...]
    worker_id: str
    per_minute: int
    """The number of runs that end by day. At night it is half as many."""
    idle_s: int = 0
    """How long no run has ended."""

    @property
    def timeout_s(self) -> int:
        return math.ceil(self.seconds * 4)

    @property
    def redis_queue(self) -> str:
        return f"{self.queue}_{self.sub_queue}" if self.sub_queue else self.queue


_RUNS = (
    RunKind(
        queue="transcription",
        sub_queue="interactive",
        payload=b'{"audio_url":"https://storage.example.com/calls/%d.ogg","language":"en"}',
        seconds=14.0,
        errors=("TimeoutError: storage.example.com did not respond within %d ms",),
        worker_id="gpu-rig-1:4121",
        per_minute=3,
    ),
    RunKind(
        queue="image-tagging",
        payload=b'{"image_url":"https://storage.example.com/photos/%d.jpg","tags":10}',
        seconds=0.8,
        errors=(
            "Traceback (most recent call last):\n"
            '  File "/srv/image-tagging/main.py", line 48, in tag\n    image = load(task["image_url"])\n'
            '  File "/srv/image-tagging/images.py", line 17, in load\n    return Image.open(stream)\n'
            "PIL.UnidentifiedImageError: cannot identify image file %d",
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate %d MiB",
        ),
        worker_id="gpu-rig-2:988",
        per_minute=12,
    ),
    RunKind(
        queue="invoices",
        payload=b'{"order_id":"ORD-2026-%d","customer":{"name":"Anna","vat_id":null}}',
        seconds=2.5,
        errors=("smtplib.SMTPServerDisconnected: Connection unexpectedly closed after %d ms",),
        worker_id="office-mini:35",
        per_minute=3,
    ),
    RunKind(
        queue="embeddings",
        payload=b'{"document":%d}',
        seconds=0.1,
        errors=("ModuleNotFoundError: No module named 'torch' (%d)",),
        worker_id="gpu-rig-2:1002",
        per_minute=9,
        idle_s=1800,
    ),
)


def make_commit(queue: str, number: int) -> str:
    """Return a commit of a queue's repository. The second one has been live for a day."""
    return hashlib.sha1(f"{queue} {number}".encode(), usedforsecurity=False).hexdigest()


def make_runs(broker: Broker) -> None:
    """Store runs with rows, and count other successes without rows, as when RUNQY_HISTORY_MAX_RATE is exceeded."""
    now_ns = broker.now_ns()
    for kind in _RUNS:
        randomness = Random(kind.queue)  # noqa: S311 (the same instance each time)
        runs = [run for number in range(_SAMPLED + _FAILED) for run in _runs_of_task(kind, number, randomness, now_ns)]
        identity = QueueIdentity(redis_queue=kind.redis_queue, queue=kind.queue, sub_queue=kind.sub_queue)
        store_runs(identity, sorted(runs, key=lambda run: run.ended_ns))
        add_to_rollups(_count_successes(kind, randomness, now_ns))


def _count_successes(kind: RunKind, randomness: Random, now_ns: int) -> RollupDeltas:
    """Return the successes of the minutes of the last hour, the quarters of the day, and the hours of the week."""
    now = floor_time(datetime.fromtimestamp(now_ns / 1e9, UTC), MINUTE_S)
    spans = [(now - timedelta(minutes=minute), 1) for minute in range(1, 61)]
    spans += [(now - timedelta(minutes=15 * quarter), 15) for quarter in range(5, 4 * 25)]
    spans += [(now - timedelta(hours=hour), 60) for hour in range(25, 24 * 7 + 1)]
    deltas = {}
    for at, minutes in spans:
        if at <= now - timedelta(seconds=kind.idle_s):
            is_day = minutes == 1 or 7 <= at.hour < 19  # the last hour always counts as day
            usual = kind.per_minute * minutes if is_day else kind.per_minute * minutes // 2
            count = usual + randomness.randint(-usual // 4, usual // 4) if kind.queue != "invoices" else usual
            deltas[kind.redis_queue, at] = _successes(kind, count, randomness)
    return deltas


def _successes(kind: RunKind, count: int, randomness: Random) -> RollupDelta:
    delta = RollupDelta(kind.queue)
    delta.counts.update({"completed": count, "enqueued": count, "started": count})
    for histogram, typical_ms in ((delta.wait_histogram, 400), (delta.run_histogram, kind.seconds * 1000)):
        for factor, share in ((0.5, 4), (1, 10), (2, 4), (6, 1)):
            duration_ms = int(typical_ms * factor * randomness.uniform(0.8, 1.25))
            add_to_histogram(histogram, duration_ms, max(count * share // 19, 1))
    return delta


def _runs_of_task(kind: RunKind, number: int, randomness: Random, now_ns: int) -> list[EndedRun]:
    """Return the runs of a task that ended in the last week."""
    task_id = f"{kind.redis_queue}-run-{number:04}"
    is_sampled = number < _SAMPLED
    age = randomness.random() ** 2 if is_sampled else randomness.random()
    started_ns = now_ns - int(age * 7 * 86_400e9) - (120 + kind.idle_s) * 10**9
    outcomes = [RunOutcome.COMPLETED]
    if not is_sampled or randomness.random() < 0.2:
        outcomes = randomness.choice(_FAILURES)
    runs = []
    for spent, outcome in enumerate(outcomes):
        seconds = min(randomness.lognormvariate(0, 0.6) * kind.seconds, 0.95 * kind.timeout_s)
        if outcome is RunOutcome.TIMED_OUT:
            seconds = kind.timeout_s
        ended_ns = started_ns + int(seconds * 1e9)
        runs.append(
            EndedRun(
                task_id=task_id,
                run_id=f"{task_id}-{spent}",
                outcome=outcome,
                is_final=spent + 1 == len(outcomes),
                attempt=spent + 1,
                enqueued_ns=started_ns - int(randomness.random() * 0.8e9) if not spent else None,
                started_ns=started_ns,
                ended_ns=ended_ns,
                worker_id=kind.worker_id,
                commit=make_commit(kind.queue, 1 + (started_ns > now_ns - 86_400 * 10**9)),
                payload=kind.payload % (5000 + number),
                result=b'{"pages":3,"language":"en"}' if outcome is RunOutcome.COMPLETED else None,
                error=_error_of(kind, outcome, randomness),
            )
        )
        started_ns = ended_ns + 15 * 10**9
    return runs


def _error_of(kind: RunKind, outcome: RunOutcome, randomness: Random) -> str:
    """Return the error that a run with an outcome leaves. If its code failed, it is one of its queue."""
    if outcome is RunOutcome.LOST:
        return LEASE_EXPIRED
    if outcome is RunOutcome.TIMED_OUT:
        return timeout_error(kind.timeout_s)
    is_failure = outcome in (RunOutcome.FAILED, RunOutcome.RETRIED)
    return randomness.choice(kind.errors) % randomness.randrange(10_000) if is_failure else ""


def delete_canceled_runs(broker: Broker) -> None:
    """Request a bulk action and run it. Redis has none of its tasks."""
    query = TaskQuery(queue="embeddings", outcomes=(RunOutcome.CANCELED,))
    create_bulk_action(broker, action=TaskAction.DELETE, query=query, expected=preview_bulk_action(broker, query).count)
    run_bulk_actions(broker)

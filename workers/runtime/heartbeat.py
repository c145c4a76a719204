"""Report every few seconds that the worker is alive, extend its leases, and read changes."""

import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from runqy import clock
from runqy.broker.message import run_deadline_s
from runqy.broker.pubsub import read_queue_revision
from runqy.broker.request import AnyBroker, Request
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import RunCount, RunCounters, RunTime, add_run_counters
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import Extension, Lease, extend
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import SHARED_DEATHS_WINDOW_S, RunningTask, WorkerAction, WorkerRecord, read_requests
from runqy.errors import BrokerRefused, RunqyError
from workers.runtime.retries import backoff_s
from workers.runtime.task_runs import OUTCOMES_OF_STATUS, Run, RunStatus

REREGISTER_MAX_DELAY_S = 300.0
REFUSAL_TOLERANCE_S = 8.0
REFUSAL_RETRY_S = 15.0
"""Refusals further apart than this are unrelated: a worker that is refused sends its next request sooner."""


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    extensions: Sequence[Extension]
    """One for each Redis queue with leases, without those whose request failed."""
    revision: str | None
    """None if the request failed."""
    undelivered: Mapping[str, RunCounters]
    """The counters that Redis did not add."""
    is_refused: bool
    """Redis refused one of the requests, or more."""
    requested: Mapping[WorkerAction, str]
    """What people asked the worker to do, with the ids of the newest requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """How a worker is known: to the server, to Redis and to asynq's tools."""

    worker_id: str
    instance_id: str
    """A UUID that up to `queue_workers.QUEUES_PER_USER` queues of a process share. They get one Redis user."""
    server_id: str
    """The id for asynq's tools. It begins with the instance's id: the Redis user may write no other heartbeats."""
    host: str = field(default_factory=lambda: socket.gethostname() or "unknown-host")
    pid: int = field(default_factory=os.getpid)
    started_at_s: int = field(default_factory=lambda: int(time.time()))


class BrokerOutageTimer:
    """Measures how long Redis has not responded, and decides when to register again to learn its address."""

    def __init__(self) -> None:
        self._due_s: float | None = None
        self._attempts = 0

    def reset(self) -> None:
        """Record a response."""
        self._due_s, self._attempts = None, 0

    def should_reregister(self, patience_s: float) -> bool:
        """Record a missing response. Return whether to register again: after `patience_s`, then less and less often."""
        now_s = clock.monotonic_s()
        if self._due_s is None:
            self._due_s = now_s + patience_s
        if now_s < self._due_s:
            return False
        self._attempts += 1
        max_s = max(patience_s, REREGISTER_MAX_DELAY_S)
        self._due_s = now_s + backoff_s(self._attempts, first_s=patience_s, max_s=max_s)
        return True


class RefusalTimer:
    """Measures how long Redis has refused the worker's own user. After a restart of Redis, maintenance recreates it."""

    def __init__(self) -> None:
        self._since_s = self._last_s = float("-inf")
        self._patience_s = 0.0

    def should_reregister(self) -> bool:
        """Record a refusal. Return whether refusals have lasted so long that the worker should register again."""
        now_s = clock.monotonic_s()
        if now_s - self._last_s > REFUSAL_RETRY_S:
            self._since_s = now_s
            # With jitter, or all workers would register at the same moment.
            self._patience_s = backoff_s(0, first_s=REFUSAL_TOLERANCE_S, max_s=REFUSAL_TOLERANCE_S)
        self._last_s = now_s
        if now_s - self._since_s < self._patience_s:
            return False
        self._last_s = float("-inf")
        return True


async def send_heartbeat(
    broker: AnyBroker, record: WorkerRecord, runs: Iterable[Run], *, lease_s: int, counted: Mapping[str, RunCounters]
) -> HeartbeatResult:
    """Send a heartbeat and the counters, extend all leases, and read requests, in one round trip.

    Raise BrokerUnavailable.
    """
    runs = list(runs)
    now_ns = broker.now_ns()
    leases: dict[str, list[Lease]] = {}
    for run in runs:
        leases.setdefault(run.task.lease.queue, []).append(run.task.lease)
    requests: list[Request[Any]] = [
        *(extend(part, now_ns=now_ns, lease_s=lease_s) for part in leases.values()),
        read_queue_revision(record.queue),
        read_requests(record.worker_id),
        write_heartbeat(record, [_running_task(run) for run in runs if run.started_ns], now_ns=now_ns),
        *(add_run_counters(queue, counters) for queue, counters in counted.items()),
    ]
    outcomes = await broker.send_all(requests)
    extended, [revision, requested, *others] = outcomes[: len(leases)], outcomes[len(leases) :]
    extensions = [
        # The Redis user has lost its rights to a queue that was removed: these leases can never be extended.
        Extension(lease_end_s=0, lost=tuple(part))
        if isinstance(outcome, BrokerRefused) and queue not in record.redis_queues
        else outcome
        for (queue, part), outcome in zip(leases.items(), extended, strict=True)
    ]
    # Redis may accept the counters with the next heartbeat.
    undelivered = [isinstance(outcome, RunqyError) for outcome in others[1:]]
    return HeartbeatResult(
        extensions=[each for each in extensions if isinstance(each, Extension)],
        revision=None if isinstance(revision, RunqyError) else revision,
        undelivered=dict(compress(counted.items(), undelivered)),
        is_refused=any(isinstance(outcome, BrokerRefused) for outcome in (*extensions, revision, *others)),
        # Refused by a Redis user that an administrator created for workers of an older release.
        requested={} if isinstance(requested, RunqyError) else requested,
    )


def _running_task(run: Run) -> RunningTask:
    message = run.task.message
    return RunningTask(
        task_id=run.task_id,
        redis_queue=run.task.lease.queue,
        task_type=message.type,
        payload=message.payload,
        started_ns=run.started_ns,
        deadline_s=run_deadline_s(message, now_s=run.started_ns // 1_000_000_000),
    )


_OUTCOMES = {
    FinishOutcome.COMPLETED: RunOutcome.COMPLETED,
    FinishOutcome.RETRIED: RunOutcome.RETRIED,
    FinishOutcome.ARCHIVED: RunOutcome.FAILED,
    FinishOutcome.CANCELED: RunOutcome.CANCELED,
}


class RecentMean:
    """A weighted mean over the present minute and the one before."""

    def __init__(self) -> None:
        self._minute = 0
        # Sums of the weights, and of the values with their weights.
        self._present = self._before = (0.0, 0.0)

    def add(self, value: float, weight: float = 1.0) -> None:
        self._roll()
        weights, values = self._present
        self._present = weights + weight, values + value * weight

    @property
    def value(self) -> float:
        """Return the mean; 0 if nothing was added."""
        self._roll()
        weights, values = (sum(pair) for pair in zip(self._before, self._present, strict=True))
        return round(values / weights, 1) if weights else 0.0

    def _roll(self) -> None:
        minute = clock.monotonic_ns() // 60_000_000_000
        if minute != self._minute:
            self._before = self._present if minute == self._minute + 1 else (0.0, 0.0)
            self._minute, self._present = minute, (0.0, 0.0)


@dataclass(slots=True)
class ReleaseCounts:
    """What became of the runs of one release."""

    runs: int = 0
    failures: int = 0
    deaths: int = 0
    """Of the failures, those whose child died."""


class RunCounts:
    """The counters of one worker, by Redis queue."""

    def __init__(self) -> None:
        # By number of release. None is dropped: a worker may go back to any of them.
        self._releases: defaultdict[int, ReleaseCounts] = defaultdict(ReleaseCounts)
        self._counters: defaultdict[str, RunCounters] = defaultdict(RunCounters)
        # Counters that belong to no queue.
        self._worker = RunCounters()
        self._batch_size = RecentMean()
        self._tasks_at_a_time = RecentMean()
        # The number of runs under way. The time that runs took since `_summed_since_s` is that number times the time
        # of now, plus `_run_time_s`: each start subtracts its time, and each end adds its own.
        self._running, self._run_time_s, self._summed_since_s = 0, 0.0, clock.monotonic_s()
        # When children died while they ran several tasks, and how many these were.
        self._shared_deaths: deque[tuple[int, int]] = deque(maxlen=100)

    def record_start(self, run: Run) -> None:
        self._running += 1
        self._run_time_s -= run.started_s
        if run.task.pending_since_ns and not run.runs_alone:  # else it started before, in a batch
            waited_ns = max(run.started_ns - run.task.pending_since_ns, 0)
            self._counters[run.task.lease.queue].observe(RunTime.WAIT, waited_ns / 1e9)

    def record_interruption(self) -> None:
        """A run that started waits to start again."""
        self._running -= 1
        self._run_time_s += clock.monotonic_s()

    def record_end(self, run: Run) -> None:
        if run.started_ns:
            ended_s = clock.monotonic_s()
            self._running -= 1
            self._run_time_s += ended_s
            self._counters[run.task.lease.queue].observe(RunTime.RUN, ended_s - run.started_s)

    def record_outcome(self, run: Run, outcome: FinishOutcome) -> None:
        """Count the outcome of a run, as the history does. The recovery counts runs whose leases ended."""
        counters = self._counters[run.task.lease.queue]
        if outcome is FinishOutcome.REQUEUED:
            counters[RunCount.REQUEUED] += 1
            return
        counted = _OUTCOMES[outcome]
        if run.started_ns and outcome is not FinishOutcome.CANCELED:
            of_release = self._releases[run.release]
            of_release.runs += 1
            of_release.failures += outcome is not FinishOutcome.COMPLETED
            of_release.deaths += run.result is not None and run.result.status is RunStatus.CHILD_DIED
        if outcome in (FinishOutcome.ARCHIVED, FinishOutcome.RETRIED) and run.result:
            counted = OUTCOMES_OF_STATUS.get(run.result.status, counted)
        is_final = outcome is not FinishOutcome.RETRIED
        counters.count_outcome(counted, is_first=run.task.attempt == 1, is_final=is_final)

    def of_release(self, number: int) -> ReleaseCounts:
        """Return what became of the runs of a release since the worker first ran it."""
        return self._releases[number]

    def record_batch(self, members: int) -> None:
        """Count a batch that was sent to a child."""
        self._worker[RunCount.BATCHES] += 1
        self._worker[RunCount.BATCH_TASKS] += members
        self._batch_size.add(members)

    def record_shared_death(self, tasks: int) -> None:
        """Count a child that died while it ran several tasks."""
        self._worker[RunCount.SHARED_DEATHS] += 1
        self._shared_deaths.append((clock.monotonic_ns(), tasks))

    @property
    def mean_batch(self) -> float:
        return self._batch_size.value

    @property
    def mean_running(self) -> float:
        now_s = clock.monotonic_s()
        if (passed_s := now_s - self._summed_since_s) > 0:
            self._tasks_at_a_time.add((self._run_time_s + self._running * now_s) / passed_s, passed_s)
            self._run_time_s, self._summed_since_s = -self._running * now_s, now_s
        return self._tasks_at_a_time.value

    @property
    def recent_shared_deaths(self) -> Sequence[int]:
        """Return the number of tasks of each child that died lately while it ran several."""
        since_ns = clock.monotonic_ns() - SHARED_DEATHS_WINDOW_S * 10**9
        return [tasks for died_ns, tasks in self._shared_deaths if died_ns > since_ns]

    def record_child_restart(self) -> None:
        self._worker[RunCount.CHILD_RESTARTS] += 1

    def record_deployment(self, *, is_successful: bool) -> None:
        self._worker[RunCount.DEPLOYMENTS if is_successful else RunCount.FAILED_DEPLOYMENTS] += 1

    def take(self, queues: Sequence[str]) -> Mapping[str, RunCounters]:
        """Return and reset the counters of these Redis queues. The first queue gets the worker's own too.

        Counters of other queues are dropped: the worker's Redis user may not write to them any more.
        """
        counters, self._counters = self._counters, defaultdict(RunCounters)
        if self._worker:
            counters[queues[0]].update(self._worker)
            self._worker = RunCounters()
        return {queue: counters[queue] for queue in queues if queue in counters}

    def restore(self, counters: Mapping[str, RunCounters]) -> None:
        """Add counters that were not delivered. If only the reply was lost, Redis counts them twice."""
        for queue, counted in counters.items():
            self._counters[queue].update(counted)

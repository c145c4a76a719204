"""Reports every few seconds that the worker is alive, extends its leases, and reads what changed."""

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from runqy import clock
from runqy.broker.heartbeats import beat
from runqy.broker.lease import Extension, extend
from runqy.broker.message import run_deadline_s
from runqy.broker.notices import read_queue_token
from runqy.broker.operation import Operation, Request, ask_all, get_context
from runqy.broker.worker_records import RunningTask, WorkerRecord
from runqy.errors import RunqyError
from workers.runtime.backoff import delay_s
from workers.runtime.registration import Registration, own_version
from workers.runtime.runs import Run
from workers.runtime.settings import WorkerSettings

REREGISTER_MAX_DELAY_S = 300.0
REFUSED_PATIENCE_S = 8.0
REFUSALS_APART_S = 15.0
"""Refusals with more than this between them have nothing to do with each other; a worker tries more often than that."""


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    """What a heartbeat returned; None where Redis refused that part."""

    extension: Extension | None
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """Who this worker is, for one queue."""

    worker_id: str
    instance_id: str
    """A UUID that up to `main.QUEUES_PER_USER` queues of a process share; the server gives them one Redis user."""
    server_id: str
    """Names it to asynq's tools. Its Redis user may write heartbeats under ids that begin with its instance's."""
    host: str = field(default_factory=lambda: socket.gethostname() or "unknown-host")
    pid: int = field(default_factory=os.getpid)
    started_at_s: int = field(default_factory=lambda: int(time.time()))


class BrokerOutageTimer:
    """How long Redis has not responded, and when the server should be asked where Redis is."""

    def __init__(self) -> None:
        self._due_s: float | None = None
        self._attempts = 0

    def reset(self) -> None:
        """Note a response, whatever it is."""
        self._due_s, self._attempts = None, 0

    def should_reregister(self, patience_s: float) -> bool:
        """Note that no response came; return whether to register again, which is due less and less often."""
        now_s = clock.monotonic_s()
        if self._due_s is None:
            self._due_s = now_s + patience_s
        if now_s < self._due_s:
            return False
        self._attempts += 1
        most_s = max(patience_s, REREGISTER_MAX_DELAY_S)
        self._due_s = now_s + delay_s(self._attempts, first_s=patience_s, most_s=most_s)
        return True


class RefusalTimer:
    """How long Redis has refused a user of our own, which maintenance creates again where a restart lost it."""

    def __init__(self) -> None:
        self._since_s = self._last_s = float("-inf")
        self._patience_s = 0.0

    def should_reregister(self) -> bool:
        """Note a refusal; return whether there have been some for so long that the server has to be asked."""
        now_s = clock.monotonic_s()
        if now_s - self._last_s > REFUSALS_APART_S:
            self._since_s = now_s
            self._patience_s = delay_s(0, first_s=REFUSED_PATIENCE_S, most_s=REFUSED_PATIENCE_S)
        self._last_s = now_s
        if now_s - self._since_s < self._patience_s:
            return False
        self._last_s = float("-inf")
        return True


def new_record(identity: WorkerIdentity, registration: Registration, settings: WorkerSettings) -> WorkerRecord:
    """Return what stays the same about a worker as long as its registration does."""
    return WorkerRecord(
        worker_id=identity.worker_id,
        host=identity.host,
        pid=identity.pid,
        server_id=identity.server_id,
        queue=registration.queue.name,
        redis_queues=registration.priorities,
        is_strict=registration.queue.order == "strict",
        concurrency=settings.concurrency,
        processes=settings.processes,
        started_at_s=identity.started_at_s,
        version=own_version(),
    )


def send_heartbeat(record: WorkerRecord, runs: Iterable[Run], *, lease_s: int) -> Operation[HeartbeatResult]:
    """Send one heartbeat and extend the leases of all runs. Raises BrokerUnavailable."""
    runs = list(runs)
    context = yield from get_context()
    requests: list[Request[Any]] = [
        extend([run.taken.lease for run in runs], now_ns=context.now_ns, lease_s=lease_s),
        read_queue_token(record.queue),
        beat(record, [_running_task(run) for run in runs if run.started_ns], now_ns=context.now_ns),
    ]
    outcomes = yield from ask_all(requests)
    # what Redis refuses now it may accept with the next heartbeat
    extension, token, _ = (None if isinstance(outcome, RunqyError) else outcome for outcome in outcomes)
    return HeartbeatResult(extension, token)


def _running_task(run: Run) -> RunningTask:
    """Return a run as asynq's tools list it."""
    message = run.taken.message
    return RunningTask(
        task_id=run.task_id,
        redis_queue=run.taken.lease.queue,
        task_type=message.type,
        payload=message.payload,
        started_ns=run.started_ns,
        deadline_s=run_deadline_s(message, now_s=run.started_ns // 1_000_000_000),
    )

"""Says every few seconds that the worker lives, keeps its leases, and asks what changed."""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.heartbeats import beat
from runqy.broker.leasing import Extension, extend
from runqy.broker.message import run_deadline_s
from runqy.broker.notices import read_queue_token
from runqy.broker.operation import Request
from runqy.broker.worker_records import RunningTask, WorkerRecord
from runqy.errors import RunqyError
from workers.runtime.registration import Registration, own_version
from workers.runtime.runs import Run
from workers.runtime.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat learned; None where Redis did not say."""

    extension: Extension | None
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this worker is, for one queue."""

    worker_id: str
    host: str = field(default_factory=lambda: socket.gethostname() or "unknown-host")
    pid: int = field(default_factory=os.getpid)
    server_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_at_s: int = field(default_factory=lambda: int(time.time()))


def new_record(identity: Identity, registration: Registration, settings: WorkerSettings) -> WorkerRecord:
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


def make_pulse(record: WorkerRecord, runs: Iterable[Run], *, lease_s: int) -> Callable[[Broker], Pulse]:
    """Return the job of one heartbeat."""
    runs = list(runs)

    def pulse(broker: Broker) -> Pulse:
        broker.measure_clock()
        now_ns = broker.now_ns()
        requests: list[Request[Any]] = [
            extend([run.taken.hold for run in runs], now_ns=now_ns, lease_s=lease_s),
            read_queue_token(record.queue),
            beat(record, [_shown(run) for run in runs if run.started_ns], now_ns=now_ns),
        ]
        extension, token, _ = [_known(outcome) for outcome in broker.run_all(requests)]
        return Pulse(extension, token)

    return pulse


def _known(outcome: Any) -> Any:
    """Return an outcome unless it is an error: what Redis refuses now it may accept with the next beat."""
    return None if isinstance(outcome, RunqyError) else outcome


def _shown(run: Run) -> RunningTask:
    """Return a run as asynq's tools list it."""
    message = run.taken.message
    return RunningTask(
        task_id=run.task_id,
        redis_queue=run.taken.hold.queue,
        task_type=message.type,
        payload=message.payload,
        started_ns=run.started_ns,
        deadline_s=run_deadline_s(message, now_s=run.started_ns // 1_000_000_000),
    )

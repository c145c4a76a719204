"""Leases: a worker's right to run a task, its token, and how it is extended.

When a lease ends, `recover` of `runqy/broker/duties/recoverer.py` spends a retry and makes the task due again, or
archives it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from runqy.broker import constants
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import Command, script

SUSPECT_DEATHS = 2
"""After this many deaths of children that it shared with other tasks, without a response since, a task is suspect."""


class Lease(msgspec.Struct, frozen=True):
    """A worker's right to run a task and to record its outcome."""

    queue: str
    """The Redis queue."""
    task_id: str
    token: str
    """Proves in later requests that the worker still holds the lease."""


class LeasedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was dequeued and may run until its lease ends."""

    lease: Lease
    message: TaskMessage
    lease_end_s: int
    attempt: int = 1
    run_number: int = 0
    """How often the task was dequeued. Unlike `attempt` it is never lowered."""
    child_deaths: int = 0
    """How many child processes died while they ran only this task."""
    is_suspect: bool = False
    """Children died repeatedly while they ran it beside other tasks. It must run alone, which shows whether it is the
    cause."""
    pending_since_ns: int = 0
    """Unix ns since which it was pending; 0: unknown."""
    is_readable: bool = True
    """False: the message is damaged and holds only id and queue, or the id is not text. The task must not be run."""
    wants_result: bool = False
    """Its end is told with its result."""

    @property
    def payload(self) -> bytes:
        return self.message.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The outcome of extending leases."""

    lease_end_s: int
    extended: tuple[Lease, ...] = ()
    lost: tuple[Lease, ...] = ()
    """Lost leases: no outcome may be recorded for their tasks."""
    canceled: tuple[Lease, ...] = ()
    """Extended leases of tasks whose cancellation was requested."""


def extend(leases: Sequence[Lease], *, now_ns: int, lease_s: int = constants.LEASE_S) -> Request[Extension]:
    lease_end_s = now_ns // 1_000_000_000 + lease_s
    by_queue: dict[str, list[Lease]] = {}
    for lease in leases:
        by_queue.setdefault(lease.queue, []).append(lease)
    parts = [
        part[first : first + constants.BATCH_MAX_TASKS]
        for part in by_queue.values()
        for first in range(0, len(part), constants.BATCH_MAX_TASKS)
    ]
    return Request(
        commands=tuple(_extend_call(part, lease_end_s) for part in parts),
        parse=partial(_parse_extension, parts, lease_end_s),
    )


def _extend_call(leases: Sequence[Lease], lease_end_s: int) -> Command:
    queue = QueueKeys.of(leases[0].queue)
    return script("extend_leases")(
        lease=queue.lease,
        task=[queue.task(lease.task_id) for lease in leases],
        lease_end_s=lease_end_s,
        id_and_token=[value for lease in leases for value in (lease.task_id, lease.token)],
    )


def _parse_extension(parts: Sequence[Sequence[Lease]], lease_end_s: int, replies: Sequence[Reply]) -> Extension:
    codes = [
        (lease, code)
        for part, reply in zip(parts, replies, strict=True)
        for lease, code in zip(part, reply, strict=True)
    ]
    return Extension(
        lease_end_s=lease_end_s,
        extended=tuple(lease for lease, code in codes if code != 0),
        lost=tuple(lease for lease, code in codes if code == 0),
        canceled=tuple(lease for lease, code in codes if code == 2),
    )

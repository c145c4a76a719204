"""A worker's right to run a task: which task, the token that proves it, and how it is extended."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from runqy.broker import timing
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, script


class Lease(msgspec.Struct, frozen=True):
    """The right of one worker to run a task and to record how that ended."""

    queue: str
    """The Redis queue."""
    task_id: str
    token: str
    """Proves in each later request that the lease is still ours."""


class LeasedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was dequeued, to be run until its lease ends."""

    lease: Lease
    message: TaskMessage
    lease_end_s: int
    child_deaths: int = 0
    """How many children died while they ran it."""
    is_readable: bool = True
    """False: its message is damaged, and here has id and queue only; or its id is no text. It must not be run."""

    @property
    def payload(self) -> bytes:
        """Return the bytes that the client sent."""
        return self.message.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The outcome of extending leases."""

    lease_end_s: int
    """When the leases that are not lost end."""
    lost: tuple[Lease, ...] = ()
    """No longer ours: nothing may be recorded for their tasks."""
    canceled: tuple[Lease, ...] = ()
    """Still ours, of tasks that were canceled."""


def extend(leases: Sequence[Lease], *, now_ns: int, lease_s: int = timing.LEASE_S) -> Request[Extension]:
    """Extend leases, all in one round trip."""
    lease_end_s = now_ns // 1_000_000_000 + lease_s
    by_queue: dict[str, list[Lease]] = {}
    for lease in leases:
        by_queue.setdefault(lease.queue, []).append(lease)
    parts = [
        part[first : first + timing.BATCH_MAX_TASKS]
        for part in by_queue.values()
        for first in range(0, len(part), timing.BATCH_MAX_TASKS)
    ]
    return Request(
        commands=tuple(_call(part, lease_end_s) for part in parts), parse=partial(_extension, parts, lease_end_s)
    )


def _call(leases: Sequence[Lease], lease_end_s: int) -> Command:
    """Return the script call for tasks of one Redis queue."""
    queue = QueueKeys(leases[0].queue)
    return script("extend")(
        lease=queue.lease,
        task=[queue.task(lease.task_id) for lease in leases],
        lease_end_s=lease_end_s,
        id_owner=[value for lease in leases for value in (lease.task_id, lease.token)],
    )


def _extension(parts: Sequence[Sequence[Lease]], lease_end_s: int, replies: Sequence[Reply]) -> Extension:
    """Read the scripts' replies."""
    codes = [
        (lease, code)
        for part, reply in zip(parts, replies, strict=True)
        for lease, code in zip(part, reply, strict=True)
    ]
    return Extension(
        lease_end_s=lease_end_s,
        lost=tuple(lease for lease, code in codes if code == 0),
        canceled=tuple(lease for lease, code in codes if code == 2),
    )

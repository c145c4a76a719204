"""Prolongs leases, and tells a worker which of its tasks it lost and which somebody cancelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from runqy.broker import timing
from runqy.broker.holding import Hold
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What a worker learns when it prolongs its leases."""

    lease_end_s: int
    """Until when the tasks that are not lost are held."""
    lost: tuple[Hold, ...] = ()
    """Tasks that are not ours any more: nothing of them may be written."""
    canceled: tuple[Hold, ...] = ()
    """Tasks that are still ours and that somebody asked to cancel."""


def extend(holds: Sequence[Hold], *, now_ns: int, lease_s: int = timing.LEASE_S) -> Request[Extension]:
    """Hold tasks for another lease, all in one round trip."""
    lease_end_s = now_ns // 1_000_000_000 + lease_s
    by_queue: dict[str, list[Hold]] = {}
    for hold in holds:
        by_queue.setdefault(hold.queue, []).append(hold)
    parts = [
        part[first : first + timing.BATCH_MAX_TASKS]
        for part in by_queue.values()
        for first in range(0, len(part), timing.BATCH_MAX_TASKS)
    ]
    return Request(
        commands=tuple(_call(part, lease_end_s) for part in parts), parse=partial(_extension, parts, lease_end_s)
    )


def _call(holds: Sequence[Hold], lease_end_s: int) -> Command:
    """Return the script call for tasks of one Redis queue."""
    queue = QueueKeys(holds[0].queue)
    return script("extend")(
        lease=queue.lease,
        task=[queue.task(hold.task_id) for hold in holds],
        lease_end_s=lease_end_s,
        id_owner=[value for hold in holds for value in (hold.task_id, hold.owner)],
    )


def _extension(parts: Sequence[Sequence[Hold]], lease_end_s: int, replies: Sequence[Reply]) -> Extension:
    """Read the scripts' answers."""
    answers = [
        (hold, answer)
        for part, reply in zip(parts, replies, strict=True)
        for hold, answer in zip(part, reply, strict=True)
    ]
    return Extension(
        lease_end_s=lease_end_s,
        lost=tuple(hold for hold, answer in answers if answer == 0),
        canceled=tuple(hold for hold, answer in answers if answer == 2),
    )

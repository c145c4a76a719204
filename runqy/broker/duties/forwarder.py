"""Move due tasks from `scheduled` and `retry` to the pending list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runqy.broker import keys as redis_keys
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.message import cancellation
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import for_each_queue
from runqy.broker.scripts import script
from runqy.broker.states import TaskState

SOURCES = (TaskState.SCHEDULED, TaskState.RETRY)


def forward(queue: str, source: TaskState, *, now_ns: int, limit: int = BATCH_MAX_TASKS) -> Request[int]:
    """Move up to `limit` due tasks of one queue to its pending list; return how many ids left the source."""
    keys = QueueKeys.of(queue)
    command = script("forward")(
        source=keys.index(source),
        pending=keys.pending,
        groups=keys.groups,
        idle=keys.idle,
        state=source.value,
        queue=queue,
        task_prefix=keys.task_prefix,
        group_prefix=keys.group(""),
        now_s=now_ns // 1_000_000_000,
        now_ns=now_ns,
        limit=limit,
        cancellation=cancellation(now_s=now_ns // 1_000_000_000),
        ended_prefix=redis_keys.ended_channel(""),
    )
    return Request((command,), lambda replies: int(replies[0]))


async def forward_due(broker: AnyBroker, queues: Sequence[str]) -> int:
    now_ns = broker.now_ns()
    moved = 0
    for source in SOURCES:
        make = partial(forward, source=source, now_ns=now_ns)
        outcomes = await for_each_queue(broker, queues, make, has_more=lambda count: count == BATCH_MAX_TASKS)
        moved += sum(count for _, count in outcomes)
    return moved

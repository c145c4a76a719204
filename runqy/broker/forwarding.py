"""Moves tasks whose time has come from `scheduled` and `retry` to their queue's pending list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import Request
from runqy.broker.scripts import script
from runqy.broker.states import TaskState
from runqy.broker.sweeping import sweep
from runqy.broker.timing import BATCH_MAX_TASKS

SOURCES = (TaskState.SCHEDULED, TaskState.RETRY)


def forward(queue: str, source: TaskState, *, now_ns: int, limit: int = BATCH_MAX_TASKS) -> Request[int]:
    """Move up to `limit` due tasks of one queue (contract 3.13), and tell how many ids left the source."""
    keys = QueueKeys(queue)
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
    )
    return Request((command,), lambda replies: int(replies[0]))


def forward_due(broker: Broker, queues: Sequence[str]) -> int:
    """Move every due task of these queues, and tell how many ids left their source."""
    moved = 0
    for source in SOURCES:
        make = partial(forward, source=source, now_ns=broker.now_ns())
        outcomes = sweep(broker, queues, make, has_more=lambda count: count == BATCH_MAX_TASKS)
        moved += sum(count for _, count in outcomes)
    return moved

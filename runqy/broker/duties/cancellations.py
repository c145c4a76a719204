"""Archive cancelled tasks that workers of other programs put back: these may know no cancellation."""

from __future__ import annotations

from collections.abc import Sequence

from runqy.broker import keys as redis_keys
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.message import cancellation
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import run_requests
from runqy.broker.scripts import command, script


async def enforce_cancellations(broker: AnyBroker, queues: Sequence[str]) -> int:
    """Archive cancelled tasks that were put back; return how many."""
    now_s = broker.now_ns() // 1_000_000_000
    ids = await run_requests(broker, {queue: _list_canceled(queue) for queue in queues})
    outcomes = await run_requests(
        broker, {queue: _enforce(queue, found, now_s) for queue, found in ids.items() if found}
    )
    return sum(outcomes.values())


def _list_canceled(queue: str) -> Request[list[bytes]]:
    key = QueueKeys.of(queue).cancellations
    return Request(
        # Random members: tasks that are still running stay in the set, and must not hide others.
        (command("SRANDMEMBER", key, BATCH_MAX_TASKS, key=key),),
        lambda replies: replies[0],
        tolerates_wrong_types=True,
    )


def _enforce(queue: str, ids: Sequence[bytes], now_s: int) -> Request[int]:
    keys = QueueKeys.of(queue)
    call = script("enforce_cancellations")(
        cancellations=keys.cancellations,
        pending=keys.pending,
        retry=keys.retry,
        scheduled=keys.scheduled,
        now_s=now_s,
        task_prefix=keys.task_prefix,
        cancellation=cancellation(now_s=now_s),
        ended_prefix=redis_keys.ended_channel(""),
        ids=ids,
    )
    return Request((call,), lambda replies: int(replies[0]))

"""Delete Redis queues with all their keys, in bounded steps that do not block Redis for long.

The caller ensures that no more tasks are enqueued. A later deletion completes one that a crash interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scanning import KeyScanner
from runqy.broker.scripts import command, script
from runqy.broker.states import TaskState
from runqy.broker.streams.ends import count_ends
from runqy.broker.tasks.reader import remove_lookups

_LISTED = (
    *(TaskState.SCHEDULED, TaskState.RETRY, TaskState.PENDING, TaskState.ACTIVE),
    *(TaskState.COMPLETED, TaskState.ARCHIVED),
)
"""In the order in which tasks move through them, so that none moves into an index that was emptied already."""

_ROUNDS = 5
"""How often deletion starts again because a worker or asynq's tools moved a task meanwhile."""


@dataclass(slots=True, kw_only=True)
class DeletedRedisQueue:
    """What was deleted with a Redis queue."""

    tasks: dict[TaskState, int] = field(default_factory=lambda: dict.fromkeys(TaskState, 0))
    """The number of tasks by state."""
    keys: int = 0
    """The number of other keys: counters, locks, records."""


def delete_redis_queue(
    broker: Broker, queue: str, *, parent: str = "", before_step: Callable[[], None] = lambda: None
) -> DeletedRedisQueue:
    """Delete a Redis queue: tasks, indexes, index entries, locks, counters. Raise BrokerUnavailable.

    Tasks that tell their end end as deleted: the stream of ends stays until it has been read, as that of `parent`.
    `before_step` is called before each step and may raise to stop.
    """
    deleted, keys = DeletedRedisQueue(), QueueKeys.of(queue)
    _delete_indexed_tasks(broker, keys, deleted, before_step)
    for _ in range(_ROUNDS):
        deleted.keys += _delete_other_keys(broker, keys, before_step)
        if not _delete_indexed_tasks(broker, keys, deleted, before_step):
            break
    has_ends = broker.run(count_ends(queue)) > 0
    broker.run(remember_unread_ends(queue, parent or queue) if has_ends else forget_unread_ends([queue]))
    broker.run(Request((command("SREM", redis_keys.QUEUES, queue, key=redis_keys.QUEUES),), lambda _: None))
    return deleted


def remember_unread_ends(queue: str, parent: str) -> Request[None]:
    """Let the stream of ends of a Redis queue be read when the queue is deleted."""
    return Request(
        (command("HSET", redis_keys.UNREAD_ENDS, queue, parent, key=redis_keys.UNREAD_ENDS),), lambda _: None
    )


def read_unread_ends() -> Request[dict[str, str]]:
    """Return the names of the queues of Redis queues whose streams of ends outlive them, by the Redis queue."""
    read = command("HGETALL", redis_keys.UNREAD_ENDS, key=redis_keys.UNREAD_ENDS)
    return Request((read,), _parse_names)


def forget_unread_ends(queues: Sequence[str]) -> Request[None]:
    """Forget deleted Redis queues, and delete their streams, which have been read."""
    forget = command("HDEL", redis_keys.UNREAD_ENDS, *queues, key=redis_keys.UNREAD_ENDS)
    streams = tuple(script("delete_empty_stream")(stream=QueueKeys.of(queue).ends) for queue in queues)
    return Request((*streams, forget), lambda _: None, is_repeatable=True)


def _parse_names(replies: Sequence[Reply]) -> dict[str, str]:
    """Parse an HGETALL reply, a map or a flat list."""
    reply = replies[0]
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {queue.decode(): parent.decode() for queue, parent in pairs}


def _delete_indexed_tasks(
    broker: Broker, keys: QueueKeys, deleted: DeletedRedisQueue, before_step: Callable[[], None]
) -> int:
    before = sum(deleted.tasks.values())
    for group in broker.run(_members(keys.groups)):
        deleted.tasks[TaskState.AGGREGATING] += _delete_all(broker, keys, keys.group(group), before_step)
    for state in _LISTED:
        deleted.tasks[state] += _delete_all(broker, keys, keys.index(state), before_step)
    return sum(deleted.tasks.values()) - before


def _delete_all(broker: Broker, keys: QueueKeys, index: str, before_step: Callable[[], None]) -> int:
    total = 0
    while True:
        before_step()
        ids = broker.run(delete_indexed_tasks(keys, index))
        if not ids:
            return total
        broker.run(remove_lookups(broker, keys.queue, ids))
        total += len(ids)


def delete_indexed_tasks(keys: QueueKeys, index: str, limit: int = BATCH_MAX_TASKS) -> Request[list[str]]:
    call = script("delete_indexed_tasks")(
        index=index, task_prefix=keys.task_prefix, lock_prefix=keys.lock_prefix, limit=limit
    )
    return Request((call,), lambda replies: [task_id.decode(errors="replace") for task_id in replies[0]])


def _delete_other_keys(broker: Broker, keys: QueueKeys, before_step: Callable[[], None]) -> int:
    """Delete all other keys of a queue, including tasks that are in no index; return how many."""
    scanner, total = KeyScanner(f"*:{{{keys.queue}}}:*", step=1000, kind=""), 0
    prefixes, task_prefix = tuple(prefix.encode() for prefix in keys.worker_prefixes), keys.task_prefix.encode()
    while True:
        before_step()
        # As bytes: other programs may have written keys that are not UTF-8.
        names = (name for name in broker.run(scanner.next_names(broker)) if name.startswith(prefixes))
        found = [name for name in names if name != keys.ends.encode()]
        tasks = [name.removeprefix(task_prefix) for name in found if name.startswith(task_prefix)]
        total += broker.run(_delete_stray_tasks(keys, tasks)) if tasks else 0
        unlink = tuple(command("UNLINK", name, key=keys.prefix) for name in found)  # all are in the slot of the queue
        total += broker.run(Request(unlink, sum)) if found else 0
        broker.run(remove_lookups(broker, keys.queue, [task_id.decode(errors="replace") for task_id in tasks]))
        if scanner.is_at_start:
            return total


def _delete_stray_tasks(keys: QueueKeys, ids: Sequence[bytes]) -> Request[int]:
    call = script("delete_stray_tasks")(ends=keys.ends, task_prefix=keys.task_prefix, ids=ids)
    return Request((call,), lambda replies: int(replies[0]), is_repeatable=True)


def _members(key: str) -> Request[list[str]]:
    return Request(
        (command("SMEMBERS", key, key=key),),
        lambda replies: sorted(member.decode(errors="replace") for member in replies[0] or ()),
        tolerates_wrong_types=True,
    )

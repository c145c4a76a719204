"""Delete Redis queues with all their keys, in bounded steps that do not block Redis for long.

The caller ensures that no more tasks are enqueued. A later deletion completes one that a crash interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import Request
from runqy.broker.scanning import KeyScanner
from runqy.broker.scripts import command, script
from runqy.broker.states import TaskState
from runqy.broker.tasks.index import remove_lookups

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
    broker: Broker, queue: str, *, before_step: Callable[[], None] = lambda: None
) -> DeletedRedisQueue:
    """Delete a Redis queue: tasks, indexes, index entries, locks, counters. Raise BrokerUnavailable.

    `before_step` is called before each step and may raise to stop.
    """
    deleted, keys = DeletedRedisQueue(), QueueKeys.of(queue)
    _delete_indexed_tasks(broker, keys, deleted, before_step)
    for _ in range(_ROUNDS):
        deleted.keys += _delete_other_keys(broker, keys, before_step)
        if not _delete_indexed_tasks(broker, keys, deleted, before_step):
            break
    broker.run(Request((command("SREM", redis_keys.QUEUES, queue, key=redis_keys.QUEUES),), lambda _: None))
    return deleted


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
        broker.run(remove_lookups(keys.queue, ids))
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
        found = [name for name in scanner.next_names(broker) if name.startswith(prefixes)]
        unlink = tuple(command("UNLINK", name, key=keys.prefix) for name in found)  # all are in the slot of the queue
        total += broker.run(Request(unlink, sum)) if found else 0
        tasks = [name.removeprefix(task_prefix) for name in found if name.startswith(task_prefix)]
        broker.run(remove_lookups(keys.queue, [task_id.decode(errors="replace") for task_id in tasks]))
        if scanner.is_at_start:
            return total


def _members(key: str) -> Request[list[str]]:
    return Request(
        (command("SMEMBERS", key, key=key),),
        lambda replies: sorted(member.decode(errors="replace") for member in replies[0] or ()),
        tolerates_wrong_types=True,
    )

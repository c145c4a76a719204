"""Removes Redis queues with all that belongs to them, in bounded steps that never block Redis for long.

The caller sees to it that nobody puts tasks on the queue any more. What a crash leaves, the next removal finishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.lookups import forget_lookups
from runqy.broker.operation import Request
from runqy.broker.scanning import KeyWalk
from runqy.broker.scripts import command, script
from runqy.broker.states import TaskState
from runqy.broker.timing import BATCH_MAX_TASKS

_LISTED = (
    *(TaskState.SCHEDULED, TaskState.RETRY, TaskState.PENDING, TaskState.ACTIVE),
    *(TaskState.COMPLETED, TaskState.ARCHIVED),
)
"""In the order in which tasks move, so that none slips from an index ahead into one that was emptied."""

_ROUNDS = 5
"""How often to begin again because a task moved all the same: a worker was at it, or asynq's tools are."""


@dataclass(slots=True, kw_only=True)
class Removal:
    """What was removed of a Redis queue."""

    tasks: dict[TaskState, int] = field(default_factory=lambda: dict.fromkeys(TaskState, 0))
    """How many by state."""
    keys: int = 0
    """How many keys beside tasks and their indexes: counters, locks, records."""


def remove_redis_queue(broker: Broker, queue: str, *, before_step: Callable[[], None] = lambda: None) -> Removal:
    """Remove a Redis queue: tasks, indexes, lookups, locks, counters. Raises BrokerUnavailable.

    `before_step` is called again and again and may raise, to stop.
    """
    removal, keys = Removal(), QueueKeys(queue)
    _drop_indexed(broker, keys, removal, before_step)
    for _ in range(_ROUNDS):
        removal.keys += _drop_rest(broker, keys, before_step)
        if not _drop_indexed(broker, keys, removal, before_step):
            break
    broker.run(Request((command("SREM", redis_keys.QUEUES, queue, key=redis_keys.QUEUES),), lambda _: None))
    return removal


def _drop_indexed(broker: Broker, keys: QueueKeys, removal: Removal, before_step: Callable[[], None]) -> int:
    """Delete the tasks of every index, groups first, and count them; return how many."""
    before = sum(removal.tasks.values())
    for group in broker.run(_members(keys.groups)):
        removal.tasks[TaskState.AGGREGATING] += _drop_all(broker, keys, keys.group(group), before_step)
    for state in _LISTED:
        removal.tasks[state] += _drop_all(broker, keys, keys.index(state), before_step)
    return sum(removal.tasks.values()) - before


def _drop_all(broker: Broker, keys: QueueKeys, index: str, before_step: Callable[[], None]) -> int:
    """Delete all tasks of an index; return how many."""
    total = 0
    while True:
        before_step()
        ids = broker.run(drop_tasks(keys, index))
        if not ids:
            return total
        broker.run(forget_lookups(keys.queue, ids))
        total += len(ids)


def drop_tasks(keys: QueueKeys, index: str, limit: int = BATCH_MAX_TASKS) -> Request[list[str]]:
    """Delete some tasks of an index of a queue, and return their ids."""
    call = script("drop_tasks")(index=index, task_prefix=keys.task_prefix, lock_prefix=keys.lock_prefix, limit=limit)
    return Request((call,), lambda replies: [task_id.decode(errors="replace") for task_id in replies[0]])


def _drop_rest(broker: Broker, keys: QueueKeys, before_step: Callable[[], None]) -> int:
    """Delete every key that is left of a queue, tasks in no index too; return how many."""
    walk, total = KeyWalk(f"*:{{{keys.queue}}}:*", step=1000, kind=""), 0
    while True:
        before_step()
        found = [key for key in walk.next_keys(broker) if key.startswith(keys.prefixes)]
        total += broker.run(Request(tuple(command("UNLINK", key, key=key) for key in found), sum)) if found else 0
        tasks = [key.removeprefix(keys.task_prefix) for key in found if key.startswith(keys.task_prefix)]
        broker.run(forget_lookups(keys.queue, tasks))
        if walk.is_at_start:
            return total


def _members(key: str) -> Request[list[str]]:
    """Return the members of a set."""
    return Request(
        (command("SMEMBERS", key, key=key),),
        lambda replies: sorted(member.decode(errors="replace") for member in replies[0] or ()),
        tolerates_wrong_types=True,
    )

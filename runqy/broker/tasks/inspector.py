"""Run, archive, delete and release tasks on request: single tasks, or all tasks of a state in bounded chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from runqy.broker import constants, keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.message import FRESH_START
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.states import TaskState
from runqy.broker.streams.run_log import make_details
from runqy.broker.tasks.archive_reasons import ARCHIVED_ON_REQUEST
from runqy.broker.tasks.reader import remove_lookups


class ActionOutcome(IntEnum):
    """The outcome of an action on a task; the values are the scripts' return codes."""

    NOT_FOUND = 0
    DONE = 1
    RUNNING = 2
    WRONG_STATE = 3
    """The action does not apply to the state of the task, or asynq's aggregator holds it."""
    UNCHANGED = 4
    """The task was already in the target state."""
    LOCKED = 5
    """Another task has its lock."""


InspectorAction = Callable[..., Request[list[ActionOutcome]]]
"""`run_tasks`, `archive_tasks`, `delete_tasks` or `release_tasks`."""


def run_tasks(
    queue: str, task_ids: Sequence[str], *, wanted: TaskState | None = None, now_ns: int
) -> Request[list[ActionOutcome]]:
    """Make tasks pending immediately. Finished tasks restart with all their retries."""
    queue_keys = QueueKeys.of(queue)
    return _act(
        "run_tasks",
        queue_keys,
        task_ids,
        wanted,
        completed=queue_keys.completed,
        idle=queue_keys.idle,
        lock_prefix=queue_keys.lock_prefix,
        queue=queue,
        now_ns=now_ns,
        now_ms=now_ns // 1_000_000,
        fresh=FRESH_START,
    )


def archive_tasks(
    queue: str,
    task_ids: Sequence[str],
    *,
    wanted: TaskState | None = None,
    now_ns: int,
    max_archived: int = constants.ARCHIVE_MAX_TASKS,
) -> Request[list[ActionOutcome]]:
    now_s = now_ns // 1_000_000_000
    return _act(
        "archive_tasks",
        QueueKeys.of(queue),
        task_ids,
        wanted,
        now_s=now_s,
        oldest_s=now_s - constants.ARCHIVE_MAX_AGE_S,
        max_archived=max_archived,
        ended_prefix=keys.ended_channel(""),
        details=make_details(None, error=ARCHIVED_ON_REQUEST),
    )


def delete_tasks(
    queue: str, task_ids: Sequence[str], *, wanted: TaskState | None = None, now_ns: int = 0
) -> Request[list[ActionOutcome]]:
    """Delete tasks that are not running, with their locks. The caller calls `remove_lookups` next."""
    queue_keys = QueueKeys.of(queue)
    return _act(
        "delete_tasks",
        queue_keys,
        task_ids,
        wanted,
        completed=queue_keys.completed,
        lock_prefix=queue_keys.lock_prefix,
        ended_prefix=keys.ended_channel(""),
    )


def release_tasks(
    queue: str, task_ids: Sequence[str], *, wanted: TaskState | None = TaskState.SCHEDULED, now_ns: int = 0
) -> Request[list[ActionOutcome]]:
    """Move scheduled tasks to `retry`, due at the same time, for workers of the Go system."""
    return _act("release_tasks", QueueKeys.of(queue), task_ids, wanted)


def _act(
    name: str, queue_keys: QueueKeys, task_ids: Sequence[str], wanted: TaskState | None, **arguments: Value
) -> Request[list[ActionOutcome]]:
    """Return the request of a script that acts on tasks. `arguments` are those that not all such scripts have."""
    call = script(name)(
        pending=queue_keys.pending,
        scheduled=queue_keys.scheduled,
        retry=queue_keys.retry,
        archived=queue_keys.archived,
        task=[queue_keys.task(task_id) for task_id in task_ids],
        wanted=wanted or "",
        task_prefix=queue_keys.task_prefix,
        ids=task_ids,
        **arguments,
    )
    return _request(call)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """The outcome of an action on all tasks of a state."""

    matched: int
    """The number of tasks in the state."""
    changed: int


def count_in_state(broker: Broker, queue: str, state: TaskState) -> int:
    return broker.run(_list_ids(queue, state, 0, 1))[0]


def apply_to_all(broker: Broker, action: InspectorAction, queue: str, state: TaskState, *, limit: int) -> BulkResult:
    """Run, archive, delete or release at most `limit` of the tasks that are in a state now, oldest first.

    Each chunk is a separate script call, so that Redis is not blocked for long. After a crash the remaining tasks are
    unchanged. Tasks that leave the state meanwhile are skipped. Raise BrokerUnavailable.
    """
    found, ids = broker.run(_list_ids(queue, state, 0, min(limit, constants.BATCH_MAX_TASKS)))
    remaining, changed, locked = min(found, limit), 0, 0
    while ids and remaining > 0:
        outcomes = broker.run(action(queue, ids, wanted=state, now_ns=broker.now_ns()))
        changed += outcomes.count(ActionOutcome.DONE)
        locked += outcomes.count(ActionOutcome.LOCKED)
        if action is delete_tasks:
            # Also those of ids without a task, which the script has removed from the index.
            broker.run(
                remove_lookups(
                    broker, queue, [i for i, o in zip(ids, outcomes, strict=True) if o <= ActionOutcome.DONE]
                )
            )
        remaining -= len(ids)
        # Tasks whose lock another task has stay in the index: the next chunk begins after them.
        _, ids = (
            broker.run(_list_ids(queue, state, locked, min(remaining, constants.BATCH_MAX_TASKS)))
            if remaining > 0
            else (0, [])
        )
    return BulkResult(matched=found, changed=changed)


def _list_ids(queue: str, state: TaskState, offset: int, limit: int) -> Request[tuple[int, list[str]]]:
    """Return the size of an index, and up to `limit` ids from `offset` on."""
    index = QueueKeys.of(queue).index(state)
    if is_list := state is TaskState.PENDING:
        count, ids = command("LLEN", index, key=index), ("LRANGE", index, -offset - limit, -offset - 1)
    else:
        count, ids = command("ZCARD", index, key=index), ("ZRANGE", index, offset, offset + limit - 1)
    return Request((count, command(*ids, key=index)), partial(_ids, is_list=is_list))


def _ids(replies: Sequence[Reply], *, is_list: bool) -> tuple[int, list[str]]:
    count, found = replies
    ids = [task_id.decode(errors="replace") for task_id in found]
    return count, ids[::-1] if is_list else ids


def _request(call: Command) -> Request[list[ActionOutcome]]:
    return Request((call,), lambda replies: [ActionOutcome(code) for code in replies[0]])

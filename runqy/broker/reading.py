"""Reads tasks: one found by its id alone, or many in one round trip."""

from collections.abc import Sequence

import msgspec

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.numbers import read_number
from runqy.broker.operation import Operation, Request, ask, get_context
from runqy.broker.records import TaskRecord, read_record
from runqy.broker.scripts import Command, command, script
from runqy.broker.states import TaskState
from runqy.errors import TaskNotFound

TaskPlace = tuple[str, str]
"""The Redis queue of a task, and its id."""


class TaskProgress(msgspec.Struct, frozen=True):
    """How far a task is: differs from before when its state changed or another run began."""

    state: TaskState
    started_at_ns: int | None
    """Start of the last run."""


def find_task(task_id: str, known_queues: Sequence[str] = ()) -> Operation[TaskRecord]:
    """Return a task by its id. Raises TaskNotFound.

    One round trip on a single server, two in a cluster; one more for a task without lookup, which is then looked for
    in all known Redis queues.
    """
    context = yield from get_context()
    if not context.is_cluster:
        record = yield from ask(_find(task_id, ()))
        if record is None and known_queues:
            record = yield from ask(_find(task_id, known_queues))
    else:
        record = yield from _find_across_slots(task_id, known_queues)
    if record is None:
        raise TaskNotFound
    return record


def _find_across_slots(task_id: str, known_queues: Sequence[str]) -> Operation[TaskRecord | None]:
    """Return a task of a cluster, where its lookup is in another slot than the task."""
    queue = yield from ask(_look_up(task_id))
    if queue:
        (record,) = yield from ask(read_tasks([(queue, task_id)]))
        if record is not None:
            return record
    found = yield from ask(read_tasks([(known, task_id) for known in known_queues if known != queue]))
    return next((record for record in found if record), None)


def read_tasks(places: Sequence[TaskPlace]) -> Request[list[TaskRecord | None]]:
    """Return tasks whose Redis queues are known; None for what does not exist."""
    return Request(
        commands=tuple(_read(QueueKeys(queue), task_id) for queue, task_id in places),
        parse=lambda replies: [_record(task_id, reply) for (_, task_id), reply in zip(places, replies, strict=True)],
        is_repeatable=True,
        is_bulky=True,
    )


def read_states(places: Sequence[TaskPlace]) -> Request[list[TaskState | None]]:
    """Return the states of tasks whose Redis queues are known, without their payloads."""
    task_keys = [QueueKeys(queue).task(task_id) for queue, task_id in places]
    return Request(
        commands=tuple(command("HGET", key, "state", key=key) for key in task_keys),
        parse=lambda replies: [TaskState.read(reply) for reply in replies],
        is_repeatable=True,
    )


def read_progress(places: Sequence[TaskPlace]) -> Request[list[TaskProgress | None]]:
    """Return the progress of tasks whose Redis queues are known; None for what does not exist."""
    task_keys = [QueueKeys(queue).task(task_id) for queue, task_id in places]
    return Request(
        commands=tuple(command("HMGET", key, "state", "started", key=key) for key in task_keys),
        parse=lambda replies: [_progress(*reply) for reply in replies],
        is_repeatable=True,
    )


def _find(task_id: str, known_queues: Sequence[str]) -> Request[TaskRecord | None]:
    """Return the request that follows the lookup inside Redis."""
    left, right = keys.AROUND_QUEUE
    call = script("find")(
        lookup=keys.lookup(task_id), id=task_id, left_of_queue=left, right_of_queue=right, known=known_queues
    )
    return Request(
        commands=(call,), parse=lambda replies: _record(task_id, replies[0]), is_repeatable=True, is_bulky=True
    )


def _look_up(task_id: str) -> Request[str]:
    """Return the request that reads a task's lookup; '' when there is none."""
    key = keys.lookup(task_id)
    return Request(
        commands=(command("HGET", key, "queue", key=key),),
        parse=lambda replies: (replies[0] or b"").decode(),
        is_repeatable=True,
    )


def _read(queue: QueueKeys, task_id: str) -> Command:
    """Return the script call that reads one task."""
    return script("read")(
        task=queue.task(task_id),
        lease=queue.lease,
        scheduled=queue.scheduled,
        retry=queue.retry,
        archived=queue.archived,
        completed=queue.completed,
        queue=queue.queue,
        id=task_id,
    )


def _record(task_id: str, reply: Reply) -> TaskRecord | None:
    """Read one task's reply."""
    if reply is None:
        return None
    queue, score, pairs = reply
    return read_record(queue.decode(), task_id, score, pairs)


def _progress(state_text: bytes | None, started: bytes | None) -> TaskProgress | None:
    """Read one task's reply; None for what is no task."""
    state = TaskState.read(state_text)
    if state is None:
        return None
    return TaskProgress(state, read_number(started))

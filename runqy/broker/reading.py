"""Reads tasks: one found by its id alone, or many in one round trip."""

from collections.abc import Sequence

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.records import TaskRecord, read_record
from runqy.broker.scripts import Command, command, script
from runqy.broker.states import TaskState
from runqy.errors import TaskNotFound

TaskPlace = tuple[str, str]
"""The Redis queue of a task, and its id."""


def find_task(broker: Broker, task_id: str, known_queues: Sequence[str] = ()) -> TaskRecord:
    """Return a task by its id. Raises TaskNotFound.

    One round trip on a single server, two in a cluster; a third there for a task without lookup, which is then looked
    for in all known Redis queues.
    """
    if not broker.is_cluster:
        record = broker.run(_find(task_id, known_queues))
    else:
        queue = broker.run(_look_up(task_id))
        record = read_tasks(broker, [(queue, task_id)])[0] if queue else None
        if record is None:
            found = read_tasks(broker, [(known, task_id) for known in known_queues if known != queue])
            record = next((record for record in found if record), None)
    if record is None:
        raise TaskNotFound
    return record


def read_tasks(broker: Broker, places: Sequence[TaskPlace]) -> list[TaskRecord | None]:
    """Return tasks whose Redis queues are known, in one round trip; None for what does not exist."""
    return broker.run(
        Request(
            commands=tuple(_read(QueueKeys(queue), task_id) for queue, task_id in places),
            parse=lambda replies: [
                _record(task_id, reply) for (_, task_id), reply in zip(places, replies, strict=True)
            ],
        )
    )


def read_states(broker: Broker, places: Sequence[TaskPlace]) -> list[TaskState | None]:
    """Return the states of tasks whose Redis queues are known, in one round trip, without their payloads."""
    task_keys = [QueueKeys(queue).task(task_id) for queue, task_id in places]
    return broker.run(
        Request(
            commands=tuple(command("HGET", key, "state", key=key) for key in task_keys),
            parse=lambda replies: [TaskState.read(reply) for reply in replies],
        )
    )


def _find(task_id: str, known_queues: Sequence[str]) -> Request[TaskRecord | None]:
    """Return the request that follows the lookup inside Redis."""
    left, right = keys.AROUND_QUEUE
    call = script("find")(
        lookup=keys.lookup(task_id), id=task_id, left_of_queue=left, right_of_queue=right, known=known_queues
    )
    return Request(commands=(call,), parse=lambda replies: _record(task_id, replies[0]))


def _look_up(task_id: str) -> Request[str]:
    """Return the request that reads a task's lookup; '' when there is none."""
    key = keys.lookup(task_id)
    return Request(
        commands=(command("HGET", key, "queue", key=key),), parse=lambda replies: (replies[0] or b"").decode()
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

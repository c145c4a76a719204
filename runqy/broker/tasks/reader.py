"""Read tasks: one by its id alone, or many in one round trip.

Index entries (`asynq:t:<id>`) and output of tasks that no longer exist are removed, the output of the others is kept.
An index entry is in another slot than its task, so one script cannot delete both. Code that deletes a task calls
`remove_lookups` next. `LookupSweep` removes what a crash or asynq's own tools left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.constants import BATCH_MAX_TASKS, LARGE_BYTES
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import KeyScanner
from runqy.broker.scripts import Command, command, script
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import parse_position
from runqy.broker.tasks.output import delete_stray_output, keep_outputs
from runqy.broker.tasks.record import TaskRecord, read_record
from runqy.errors import TaskNotFound

CONFIRM_AFTER_S = 60
"""An index entry is written before its task: it is removed if the task is still missing after this long."""

MAX_SUSPECTS = 10_000


def remove_lookup(queue: str, task_id: str) -> Request[bool]:
    """Remove the index entry of a deleted task, unless it names another queue by now."""
    forget = script("remove_lookup")(lookup=keys.lookup(task_id), queue=queue)
    return Request((forget,), lambda replies: replies[0] == 1)


async def remove_lookups(broker: AnyBroker, queue: str, task_ids: Sequence[str]) -> None:
    for start in range(0, len(task_ids), BATCH_MAX_TASKS):
        await broker.send_all([remove_lookup(queue, task_id) for task_id in task_ids[start : start + BATCH_MAX_TASKS]])


class LookupSweep:
    """Scans all index entries in bounded steps. It removes those without a task, and keeps the output of the others."""

    def __init__(self, step: int = 1000) -> None:
        self._scanner = KeyScanner(keys.lookup("*"), step)
        self._suspects: dict[tuple[str, str], int] = {}  # (id, queue) -> s at which it was first seen without a task

    @property
    def is_round_complete(self) -> bool:
        return self._scanner.is_at_start

    async def run_step(self, broker: Broker) -> int:
        """Check the entries of the next step, and remove those that have been without a task for a minute; return how
        many.
        """
        now_s = broker.now_s()
        ids = [key.removeprefix(keys.lookup("")) for key in await self._scanner.next_keys(broker)]
        seen = list(zip(ids, await broker.send(_read_queues(ids)), strict=True))
        missing = await _without_task(broker, seen)
        await broker.send(keep_outputs([(queue, task_id) for task_id, queue in {*seen}.difference(missing)]))
        for suspect in missing:
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.setdefault(suspect, now_s)
        due = [suspect for suspect, since_s in self._suspects.items() if now_s - since_s >= CONFIRM_AFTER_S]
        return await self._remove(broker, due)

    async def _remove(self, broker: Broker, due: Sequence[tuple[str, str]]) -> int:
        confirmed = await _without_task(broker, due)
        await broker.send_all([delete_stray_output(queue, task_id) for task_id, queue in confirmed])
        removed = await broker.send_all([remove_lookup(queue, task_id) for task_id, queue in confirmed])
        for suspect in due:
            del self._suspects[suspect]
        return sum(outcome is True for outcome in removed)


def _read_queues(ids: Sequence[str]) -> Request[list[str]]:
    lookups = [keys.lookup(task_id) for task_id in ids]

    def parse(replies: Sequence[Reply]) -> list[str]:
        return [(reply or b"").decode(errors="replace") for reply in replies]

    return Request(tuple(command("HGET", key, "queue", key=key) for key in lookups), parse)


async def _without_task(broker: Broker, lookups: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    pairs = list(lookups)
    tasks = [QueueKeys.of(queue).task(task_id) for task_id, queue in pairs]
    exist: list[int] = await broker.send(Request(tuple(command("EXISTS", task, key=task) for task in tasks), list))
    return [lookup for lookup, count in zip(pairs, exist, strict=True) if not count]


TaskLocation = tuple[str, str]  # Redis queue, task id


class TaskStatus(msgspec.Struct, frozen=True):
    """What changes about a task while it is watched."""

    state: TaskState
    started_at_ns: int | None
    """Start of the last run."""
    progress: bytes | None = None
    """The stored JSON."""
    output: bytes | None = None
    """A text that changes whenever output is written."""
    chunks: tuple[int, int] = (0, 0)
    """The number of the last run, and how many chunks it streamed."""


async def find_task(
    broker: AnyBroker, task_id: str, known_queues: Sequence[str] = (), *, wants_payload: bool = True
) -> TaskRecord:
    """Return a task by its id. Raise TaskNotFound.

    One round trip, in a cluster two. A task without an index entry costs another one, which searches `known_queues`.
    """
    if not broker.is_cluster:
        record = await _find(broker, task_id, (), wants_payload)
        if record is None and known_queues:
            record = await _find(broker, task_id, known_queues, wants_payload)
    else:
        record = await _find_across_slots(broker, task_id, known_queues, wants_payload)
    if record is None:
        raise TaskNotFound
    return record


async def _find_across_slots(
    broker: AnyBroker, task_id: str, known_queues: Sequence[str], wants_payload: bool
) -> TaskRecord | None:
    # The index entry and the task are in different slots, so no script can follow it.
    queue = await broker.send(_find_queue(task_id))
    if queue:
        (record,) = await read_tasks(broker, [(queue, task_id)], wants_payload=wants_payload)
        if record is not None:
            return record
    others = [(known, task_id) for known in known_queues if known != queue]
    found = await read_tasks(broker, others, wants_payload=wants_payload)
    return next((record for record in found if record), None)


async def read_tasks(
    broker: AnyBroker, locations: Sequence[TaskLocation], *, wants_payload: bool = True
) -> list[TaskRecord | None]:
    """Return tasks whose Redis queues are known; None for a task that does not exist.

    One round trip, and another one for each large task. Without `wants_payload`, Redis sends no payloads.
    """
    calls = [_read(QueueKeys.of(queue), task_id, wants_payload) for queue, task_id in locations]
    replies = await broker.send(_read_all(calls))
    for index, reply in enumerate(replies):
        if isinstance(reply, int):
            (queue, task_id) = locations[index]
            large = _read(QueueKeys.of(queue), task_id, wants_payload, size=reply)
            (replies[index],) = await broker.send(_read_all([large]))
    return [_record(task_id, reply, wants_payload) for (_, task_id), reply in zip(locations, replies, strict=True)]


def _read_all(calls: Sequence[Command]) -> Request[list[Reply]]:
    return Request(tuple(calls), list, is_bulky=True, tolerates_wrong_types=True)


def read_states(locations: Sequence[TaskLocation]) -> Request[list[TaskState | None]]:
    """Return the states of tasks whose Redis queues are known, without their payloads."""
    task_keys = [QueueKeys.of(queue).task(task_id) for queue, task_id in locations]
    return Request(
        commands=tuple(command("HGET", key, "state", key=key) for key in task_keys),
        parse=lambda replies: [TaskState.read(reply) for reply in replies],
        tolerates_wrong_types=True,
    )


def read_holders(locations: Sequence[TaskLocation]) -> Request[list[tuple[TaskState, str] | None]]:
    """Return the states of tasks whose Redis queues are known, and the ids of the workers of their last runs."""
    task_keys = [QueueKeys.of(queue).task(task_id) for queue, task_id in locations]

    def parse(reply: Reply) -> tuple[TaskState, str] | None:
        state_text, worker = reply or (None, None)
        state = TaskState.read(state_text)
        return (state, (worker or b"").decode("utf-8", "replace")) if state else None

    return Request(
        commands=tuple(command("HMGET", key, "state", "worker", key=key) for key in task_keys),
        parse=lambda replies: [parse(reply) for reply in replies],
        tolerates_wrong_types=True,
    )


def read_statuses(locations: Sequence[TaskLocation]) -> Request[list[TaskStatus | None]]:
    """Return the statuses of tasks whose Redis queues are known; None for a task that does not exist."""
    task_keys = [QueueKeys.of(queue).task(task_id) for queue, task_id in locations]
    fields = ("state", "started", "progress", "output", "runs", "chunks")
    return Request(
        commands=tuple(command("HMGET", key, *fields, key=key) for key in task_keys),
        parse=lambda replies: [_status(reply) for reply in replies],
    )


async def _find(broker: AnyBroker, task_id: str, known_queues: Sequence[str], wants_payload: bool) -> TaskRecord | None:
    """Look a task up inside Redis: by its index entry, or in the known queues."""
    left, right = keys.QUEUE_PREFIX_PARTS
    size = 0
    while True:
        call = script("find_task")(
            lookup=keys.lookup(task_id),
            id=task_id,
            queue_prefix=left,
            queue_suffix=right,
            max_bytes=_max_bytes(size),
            wants_payload=int(wants_payload),
            known=known_queues,
        )
        request = Request((replace(call, reply_bytes=size),), lambda replies: replies[0], is_bulky=True)
        reply = await broker.send(request)
        if not isinstance(reply, int):
            return _record(task_id, reply, wants_payload)
        size = reply


def _max_bytes(size: int) -> int:
    """Return the limit of a reply. Of a task that is known to be large there is none: it may have grown since."""
    return LARGE_BYTES if size == 0 else 1 << 40


def _find_queue(task_id: str) -> Request[str]:
    """Return the queue that a task's index entry names; empty without an entry."""
    key = keys.lookup(task_id)
    return Request(
        commands=(command("HGET", key, "queue", key=key),),
        parse=lambda replies: (replies[0] or b"").decode(errors="replace"),
    )


def _read(queue: QueueKeys, task_id: str, wants_payload: bool, *, size: int = 0) -> Command:
    """Return the command that reads a task, whose size is given if it is large."""
    call = script("read_task")(
        task=queue.task(task_id),
        lease=queue.lease,
        scheduled=queue.scheduled,
        retry=queue.retry,
        archived=queue.archived,
        completed=queue.completed,
        queue=queue.queue,
        id=task_id,
        max_bytes=_max_bytes(size),
        wants_payload=int(wants_payload),
    )
    return replace(call, reply_bytes=size)


def _record(task_id: str, reply: Reply, wants_payload: bool) -> TaskRecord | None:
    if reply is None:
        return None
    queue, score, pairs = reply
    return read_record(queue.decode(errors="replace"), task_id, score, pairs, has_payload=wants_payload)


def _status(fields: Sequence[bytes | None]) -> TaskStatus | None:
    state_text, started, progress, output, runs, chunks = fields
    state = TaskState.read(state_text)
    if state is None:
        return None
    return TaskStatus(state, read_number(started), progress, output, parse_position(runs, chunks))

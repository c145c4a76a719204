"""Creates a task under conditions: its unique key, and the idempotency key of the request."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from queues.names import ResolvedQueue
from runqy.broker.broker import Broker, raised
from runqy.broker.creating import Creation, LockHeld, Maker, Once, Part, create_safely, find_creation
from runqy.broker.lookups import forget_lookups
from runqy.broker.producing import NewTask, new_task_id
from runqy.broker.reading import read_tasks
from runqy.broker.records import TaskRecord
from runqy.errors import RunqyError, TaskAlreadyExists, TaskNotFound, TaskNotUnique
from tasks.orders import OnConflict, TaskOrder, make_task, refuse_disabled


@dataclass(frozen=True, slots=True)
class EnqueuedTask:
    """The task that an order led to."""

    record: TaskRecord
    is_existing: bool = False
    """It was there before, under the same unique key."""
    is_replayed: bool = False
    """The request is a repetition, and this is what the first one led to."""


class FirstAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What the answer to a request says that neither the request nor the record of its idempotency key tells."""

    payload_end: bytes
    """What stands behind the request's payload: the defaults that the queue's schema had then."""
    timeout_s: int
    deadline_s: int
    max_retry: int
    retention_s: int
    ttl_archived_s: int
    process_at_s: int | None
    headers: dict[str, str]


def create_task(
    broker: Broker, order: TaskOrder, resolved: ResolvedQueue, *, headers: Mapping[str, str], once: Once | None
) -> EnqueuedTask:
    """Put a task on a queue, one round trip; a second one where another task stands in its place. Raises as
    `enqueue_task` does."""
    task_id, queue = new_task_id(), resolved.redis_queue
    maker = Maker(task_id, broker.now_ns())
    try:
        refuse_disabled(resolved)
        task = make_task(order, resolved, task_id=task_id, now_ns=maker.now_ns, headers=headers)
    except RunqyError:
        # What was allowed when the request came first may not be now.
        first = broker.run(find_creation(queue, once)) if once is not None else None
        if first is None:
            raise
        return _enqueued(broker, order, queue, first, is_replayed=True)
    part = Part(
        queue=queue,
        tasks=[task],
        note=_note(order, task) if once is not None else b"",
        keeps_conflicts=order.unique is not None and order.unique.on_conflict is OnConflict.RETURN,
    )
    creation = raised(create_safely(broker, [part], maker, once)[0])
    is_replayed = creation.maker != maker
    if is_replayed or isinstance(creation.outcomes[0], LockHeld):
        forget_lookups(broker, queue, [task_id])
    if not is_replayed and not isinstance(creation.outcomes[0], LockHeld | TaskAlreadyExists):
        return EnqueuedTask(record_of(task, maker.now_ns))
    return _enqueued(broker, order, queue, creation, is_replayed=is_replayed)


def record_of(task: NewTask, now_ns: int) -> TaskRecord:
    """Return a task as it stands in Redis once it was queued."""
    return TaskRecord(
        id=task.id,
        queue=task.queue,
        state=task.state_at(now_ns),
        message=task.message(),
        score_s=task.process_at_s,
        enqueued_at_ns=now_ns,
        ttl_archived_s=task.ttl_archived_s,
    )


def _enqueued(broker: Broker, order: TaskOrder, queue: str, creation: Creation, *, is_replayed: bool) -> EnqueuedTask:
    """Return the task that stands in the place of the one asked for."""
    outcome = creation.outcomes[0]
    if isinstance(outcome, TaskAlreadyExists):
        raise outcome
    if not isinstance(outcome, LockHeld):
        return EnqueuedTask(_first_record(order, queue, creation), is_replayed=is_replayed)
    if order.unique is None or order.unique.on_conflict is OnConflict.REJECT:
        raise TaskNotUnique(f"The task {outcome.task_id} has this unique_key.")
    (record,) = read_tasks(broker, [(queue, outcome.task_id)])
    if record is None:
        raise TaskNotFound(f"The task {outcome.task_id}, which had this unique_key, is over and gone.")
    return EnqueuedTask(record, is_existing=True, is_replayed=is_replayed)


def _note(order: TaskOrder, task: NewTask) -> bytes:
    """Return what is kept for the answer to a repetition."""
    first = FirstAnswer(
        payload_end=task.payload[len(order.payload) - 1 :],
        timeout_s=task.timeout_s,
        deadline_s=task.deadline_s,
        max_retry=task.max_retry,
        retention_s=task.retention_s,
        ttl_archived_s=task.ttl_archived_s,
        process_at_s=task.process_at_s,
        headers=dict(task.headers),
    )
    return _encode(first)


def _first_record(order: TaskOrder, queue: str, creation: Creation) -> TaskRecord:
    """Return the task as it was when the first request created it."""
    first = _decode(creation.note)
    task = NewTask(
        id=creation.maker.token,
        queue=queue,
        payload=order.payload[:-1] + first.payload_end,
        timeout_s=first.timeout_s,
        deadline_s=first.deadline_s,
        max_retry=first.max_retry,
        retention_s=first.retention_s,
        ttl_archived_s=first.ttl_archived_s,
        process_at_s=first.process_at_s,
        headers=first.headers,
        unique_key=order.unique.key if order.unique else "",
    )
    return record_of(task, creation.maker.now_ns)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FirstAnswer).decode

"""Creates a task under conditions: its unique key, and the idempotency key of the request."""

from collections.abc import Mapping

import msgspec

from queues.names import ResolvedQueue
from runqy.broker.broker import Broker
from runqy.broker.creating import Created, LockHeld, Once
from runqy.broker.creating_one import Earlier, Recorded, create_one, find_earlier
from runqy.broker.lookups import forget_lookups
from runqy.broker.producing import NewTask, new_task_id
from runqy.broker.reading import read_tasks
from runqy.broker.records import TaskRecord
from runqy.errors import RunqyError, TaskNotFound, TaskNotUnique
from tasks.orders import OnConflict, TaskOrder, make_task, refuse_disabled


class EnqueuedTask(msgspec.Struct, frozen=True):
    """The task that an order led to."""

    record: TaskRecord
    is_existing: bool = False
    """It was there before, under the same unique key."""
    is_replayed: bool = False
    """The request is a repetition, and this is what the first one led to."""


class FirstAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What the answer to a request says that the request itself does not tell; kept with its idempotency key."""

    id: str
    now_ns: int
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
    queue, now_ns = resolved.redis_queue, broker.now_ns()
    try:
        refuse_disabled(resolved)
        task = make_task(order, resolved, task_id=new_task_id(), now_ns=now_ns, headers=headers)
    except RunqyError:
        # What was allowed when the request came first may not be now.
        earlier = broker.run(find_earlier(queue, once)) if once is not None else None
        if earlier is None:
            raise
        return _repeated(broker, order, queue, earlier)
    recorded = _recorded(order, task, now_ns, once) if once is not None else None
    outcome = broker.run(create_one(task, now_ns=now_ns, recorded=recorded, is_cluster=broker.is_cluster))
    if outcome is Created.NOW:
        return EnqueuedTask(record_of(task, now_ns))
    broker.run(forget_lookups(queue, [task.id]))
    if isinstance(outcome, Earlier):
        return _repeated(broker, order, queue, outcome)
    assert isinstance(outcome, LockHeld)  # noqa: S101 (no other outcome is left)
    return _existing(broker, order, queue, outcome.task_id)


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


def _existing(broker: Broker, order: TaskOrder, queue: str, holder: str, *, is_replayed: bool = False) -> EnqueuedTask:
    """Return the task that has the lock, where the order wants it. Raises TaskNotUnique, TaskNotFound."""
    if order.unique is None or order.unique.on_conflict is OnConflict.REJECT:
        raise TaskNotUnique(f"The task {holder} has this unique_key.")
    (record,) = broker.run(read_tasks([(queue, holder)]))
    if record is None:
        raise TaskNotFound(f"The task {holder}, which had this unique_key, is over and gone.")
    return EnqueuedTask(record, is_existing=True, is_replayed=is_replayed)


def _repeated(broker: Broker, order: TaskOrder, queue: str, earlier: Earlier) -> EnqueuedTask:
    """Return the task that the same request led to when it came first."""
    if earlier.holder:
        return _existing(broker, order, queue, earlier.holder, is_replayed=True)
    first = _decode(earlier.note)
    task = NewTask(
        id=first.id,
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
    return EnqueuedTask(record_of(task, first.now_ns), is_replayed=True)


def _recorded(order: TaskOrder, task: NewTask, now_ns: int, once: Once) -> Recorded:
    """Return what is kept for the answer to a repetition."""
    first = FirstAnswer(
        id=task.id,
        now_ns=now_ns,
        payload_end=task.payload[len(order.payload) - 1 :],
        timeout_s=task.timeout_s,
        deadline_s=task.deadline_s,
        max_retry=task.max_retry,
        retention_s=task.retention_s,
        ttl_archived_s=task.ttl_archived_s,
        process_at_s=task.process_at_s,
        headers=dict(task.headers),
    )
    keeps_conflict = order.unique is not None and order.unique.on_conflict is OnConflict.RETURN
    return Recorded(once, _encode(first), keeps_conflict)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FirstAnswer).decode

"""Puts single tasks on queues."""

from collections.abc import Mapping

import msgspec

from queues.names import AllowedQueues, ResolvedQueue
from queues.queries import get_catalog, resolve_queue
from runqy.audit.operations import announced
from runqy.broker.broker import Broker
from runqy.broker.enqueue import (
    Created,
    IdempotencyKey,
    IdempotencyRecord,
    LockHeld,
    NewTask,
    Replayed,
    enqueue,
    enqueue_unique,
    find_replayed,
    new_task_id,
)
from runqy.broker.lookups import forget_lookups
from runqy.broker.memory import ask_to_add
from runqy.broker.operation import BrokerContext, Operation, ask, get_context
from runqy.broker.reading import read_tasks
from runqy.broker.records import TaskRecord
from runqy.errors import QueueFull, RunqyError, TaskNotFound, TaskNotUnique
from tasks.task_specs import OnConflict, TaskSpec, build_task, ensure_enabled, record_of
from tasks.waiting import WaitingClient
from tasks.waiting_loop import get_waiting_loop

__all__ = ["EnqueuedTask", "enqueue_and_wait", "enqueue_task"]


class EnqueuedTask(msgspec.Struct, frozen=True):
    """The task that a request led to."""

    record: TaskRecord
    is_existing: bool = False
    """It existed before, under the same unique key."""
    is_replayed: bool = False
    """The request is a repetition, and this is what the first one led to."""


class StoredResponse(msgspec.Struct, frozen=True, array_like=True):
    """What the response to a request holds beyond the request itself; kept with its idempotency key."""

    id: str
    now_ns: int
    payload_end: bytes
    """What follows the request's payload: the defaults that the queue's schema had then."""
    timeout_s: int
    deadline_s: int
    max_retry: int
    retention_s: int
    ttl_archived_s: int
    process_at_s: int | None
    headers: dict[str, str]


def enqueue_task(
    *,
    spec: TaskSpec,
    allowed_queues: AllowedQueues = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: IdempotencyKey | None = None,
) -> Operation[EnqueuedTask]:
    """Put a task on a queue, one round trip; the same request once where it has an idempotency key.

    `headers` go with the task. Raises QueueNotFound, QueueDisabled, QueueFull, PayloadInvalid, RequestInvalid,
    TaskNotUnique, IdempotencyKeyReused, BrokerUnavailable.
    """
    resolved = get_catalog().resolve(spec.queue, allowed_queues=allowed_queues)
    if idempotency_key is not None or spec.unique is not None:
        return (yield from _unique_enqueue(spec, resolved, headers or {}, idempotency_key))
    ensure_enabled(resolved)
    context = yield from get_context()
    task = build_task(spec, resolved, task_id=new_task_id(), now_ns=context.now_ns, headers=headers or {})
    yield from _enqueue(task, context)
    return EnqueuedTask(record_of(task, context.now_ns))


def enqueue_and_wait(
    broker: Broker, *, spec: TaskSpec, headers: Mapping[str, str], client_id: str, timeout_s: float
) -> TaskRecord:
    """Queue a task, recorded in the audit before, and return it once it ended, or as it is after `timeout_s`.

    Blocks. Raises QueueNotFound, QueueDisabled, QueueFull, PayloadInvalid, RequestInvalid, BrokerUnavailable.
    """
    resolved = resolve_queue(spec.queue)
    ensure_enabled(resolved)
    context = broker.context()
    task = build_task(spec, resolved, task_id=new_task_id(), now_ns=context.now_ns, headers=headers)
    changes = {"queue": (None, task.queue)}
    with announced(action="task.created", object_kind="task", object_name=task.id, changes=changes):
        broker.run(_enqueue(task, context))
    waiting, client = get_waiting_loop(), WaitingClient(id=client_id, holds_thread=True)
    awaited = waiting.run(
        waiting.waiters.wait_for_queued(task.id, queue=task.queue, client=client, timeout_s=timeout_s)
    )
    return awaited or record_of(task, context.now_ns)


def _enqueue(task: NewTask, context: BrokerContext) -> Operation[None]:
    """Put a new task on its queue. Raises QueueFull, TaskAlreadyExists, BrokerUnavailable."""
    request = enqueue(task, now_ns=context.now_ns, is_cluster=context.is_cluster)
    try:
        yield from ask_to_add(request, queue=task.queue, memory=context.memory)
    except QueueFull:
        yield from _forget_refused(task, context)
        raise


def _unique_enqueue(
    spec: TaskSpec, resolved: ResolvedQueue, headers: Mapping[str, str], idempotency_key: IdempotencyKey | None
) -> Operation[EnqueuedTask]:
    """Put a task with a unique key or an idempotency key on a queue, one round trip; a second one for another task
    that is returned instead. Raises as `enqueue_task`."""
    queue, context = resolved.redis_queue, (yield from get_context())
    try:
        ensure_enabled(resolved)
        task = build_task(spec, resolved, task_id=new_task_id(), now_ns=context.now_ns, headers=headers)
    except RunqyError:
        # What was allowed when the request came first may not be now.
        replayed = (yield from ask(find_replayed(queue, idempotency_key))) if idempotency_key is not None else None
        if replayed is None:
            raise
        return (yield from _replay(spec, queue, replayed))
    record = _recorded(spec, task, context.now_ns, idempotency_key) if idempotency_key is not None else None
    request = enqueue_unique(task, now_ns=context.now_ns, record=record, is_cluster=context.is_cluster)
    try:
        outcome = yield from ask_to_add(request, queue=queue, memory=context.memory)
    except QueueFull:
        yield from _forget_refused(task, context)
        raise
    if outcome is Created.NOW:
        return EnqueuedTask(record_of(task, context.now_ns))
    yield from forget_lookups(queue, [task.id])
    if isinstance(outcome, Replayed):
        return (yield from _replay(spec, queue, outcome))
    assert isinstance(outcome, LockHeld)  # noqa: S101 (no other outcome is left)
    return (yield from _get_existing(spec, queue, outcome.task_id))


def _forget_refused(task: NewTask, context: BrokerContext) -> Operation[None]:
    """Remove the lookup of a task that was refused; only in a cluster, where it is written before the task."""
    if context.is_cluster:
        yield from forget_lookups(task.queue, [task.id])


def _get_existing(spec: TaskSpec, queue: str, task_id: str, *, is_replayed: bool = False) -> Operation[EnqueuedTask]:
    """Return the task that has the unique key, where the spec asks for it. Raises TaskNotUnique, TaskNotFound."""
    if spec.unique is None or spec.unique.on_conflict is OnConflict.REJECT:
        raise TaskNotUnique(f"The task {task_id} has this unique_key.")
    (record,) = yield from ask(read_tasks([(queue, task_id)]))
    if record is None:
        raise TaskNotFound(f"The task {task_id}, which had this unique_key, is over and gone.")
    return EnqueuedTask(record, is_existing=True, is_replayed=is_replayed)


def _replay(spec: TaskSpec, queue: str, replayed: Replayed) -> Operation[EnqueuedTask]:
    """Return the task that the same request led to when it came first."""
    if replayed.holder:
        return (yield from _get_existing(spec, queue, replayed.holder, is_replayed=True))
    first = _decode(replayed.note)
    task = NewTask(
        id=first.id,
        queue=queue,
        payload=spec.payload[:-1] + first.payload_end,
        timeout_s=first.timeout_s,
        deadline_s=first.deadline_s,
        max_retry=first.max_retry,
        retention_s=first.retention_s,
        ttl_archived_s=first.ttl_archived_s,
        process_at_s=first.process_at_s,
        headers=first.headers,
        unique_key=spec.unique.key if spec.unique else "",
    )
    return EnqueuedTask(record_of(task, first.now_ns), is_replayed=True)


def _recorded(spec: TaskSpec, task: NewTask, now_ns: int, idempotency_key: IdempotencyKey) -> IdempotencyRecord:
    """Return what is kept for the response to a repetition."""
    first = StoredResponse(
        id=task.id,
        now_ns=now_ns,
        payload_end=task.payload[len(spec.payload) - 1 :],
        timeout_s=task.timeout_s,
        deadline_s=task.deadline_s,
        max_retry=task.max_retry,
        retention_s=task.retention_s,
        ttl_archived_s=task.ttl_archived_s,
        process_at_s=task.process_at_s,
        headers=dict(task.headers),
    )
    keeps_conflict = spec.unique is not None and spec.unique.on_conflict is OnConflict.RETURN
    return IdempotencyRecord(idempotency_key, _encode(first), keeps_conflict)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredResponse).decode

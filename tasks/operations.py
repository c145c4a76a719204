"""Enqueue single tasks."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from queues.catalog import AllowedQueues, ResolvedQueue
from queues.queries import get_catalog, resolve_queue
from runqy.audit.pending import record_in_redis
from runqy.broker.broker import Broker
from runqy.broker.message import MAX_INT32
from runqy.broker.operation import BrokerContext, Operation, Request, ask, get_context
from runqy.broker.tasks.enqueue import (
    IdempotencyKey,
    IdempotencyRecord,
    LockConflict,
    NewTask,
    Replayed,
    TaskCreated,
    enqueue,
    enqueue_unique,
    expire_records,
    find_replayed,
    new_task_id,
)
from runqy.broker.tasks.index import remove_lookups
from runqy.broker.tasks.memory import ask_with_memory_check
from runqy.broker.tasks.reader import read_tasks
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import (
    BrokerFull,
    IdempotencyRecordUnreadable,
    QueueFull,
    QueueMemoryExceeded,
    RunqyError,
    TaskNotFound,
    TaskNotUnique,
)
from runqy.http.request_ids import trace_headers
from runqy.telemetry.tracing import enqueue_span
from tasks.task_specs import OnConflict, TaskSpec, build_record, build_task, ensure_enabled
from tasks.waiting import WaitingClient
from tasks.waiting_loop import get_waiting_loop

_FORGOTTEN_TTL_S = 60
"""An allowance for the clocks of two processes, of which one takes over what the other was doing."""


class EnqueuedTask(msgspec.Struct, frozen=True):
    """The task that a request created or found."""

    record: TaskRecord
    is_existing: bool = False
    """An earlier task has the same unique key."""
    is_replayed: bool = False
    """The request is a repetition; this is the result of the first one."""
    is_unserved: bool = False
    """No worker serves its Redis queue."""


_Seconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""At most the end of the year 9999."""


class StoredResponse(msgspec.Struct, frozen=True, array_like=True):
    """What a response contains beyond its request. It is stored with the idempotency key."""

    id: str
    now_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    payload_end: bytes
    """What was appended to the request's payload: the defaults of the queue's schema at that time."""
    timeout_s: _Seconds
    deadline_s: _Seconds
    max_retry: Annotated[int, msgspec.Meta(ge=0, le=MAX_INT32)]
    retention_s: _Seconds
    ttl_archived_s: _Seconds
    process_at_s: _Seconds | None
    headers: dict[str, str]


def enqueue_task(
    *,
    spec: TaskSpec,
    allowed_queues: AllowedQueues = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: IdempotencyKey | None = None,
) -> Operation[EnqueuedTask]:
    """Enqueue a task in one round trip. With an idempotency key, a repeated request creates no second task.

    `headers` are stored in the task. Raise QueueNotFound, QueueDisabled, QueueFull, PayloadInvalid, RequestInvalid,
    TaskNotUnique, IdempotencyKeyReused, IdempotencyRecordUnreadable, BrokerUnavailable.
    """
    resolved = get_catalog().resolve(spec.queue, allowed_queues=allowed_queues)
    if idempotency_key is not None or spec.unique is not None:
        enqueued = yield from _unique_enqueue(spec, resolved, headers or {}, idempotency_key)
        memory = (yield from get_context()).memory
        return msgspec.structs.replace(enqueued, is_unserved=memory.is_unserved(resolved.redis_queue))
    ensure_enabled(resolved)
    context = yield from get_context()
    task = build_task(spec, resolved, task_id=new_task_id(), now_ns=context.now_ns, headers=headers or {})
    yield from enqueue_built_task(task, context)
    is_unserved = context.memory.is_unserved(task.queue)
    return EnqueuedTask(build_record(task, context.now_ns), is_unserved=is_unserved)


def enqueue_and_wait(
    broker: Broker, *, spec: TaskSpec, client_id: str, timeout_s: float, traceparent: str = ""
) -> TaskRecord:
    """Enqueue a task. Return it once it has ended, or in its state after `timeout_s`. Blocks. Recorded in the audit.

    `traceparent` is the client's trace context. Raise QueueNotFound, QueueDisabled, QueueFull, PayloadInvalid,
    RequestInvalid, BrokerUnavailable.
    """
    resolved = resolve_queue(spec.queue)
    ensure_enabled(resolved)
    context = broker.context()
    with enqueue_span(spec.queue, traceparent):
        headers = trace_headers(traceparent)
        task = build_task(spec, resolved, task_id=new_task_id(), now_ns=context.now_ns, headers=headers)
        changes = {"queue": (None, task.queue)}
        # Before the task exists: changes of Redis are recorded first (docs/adr/0026).
        record_in_redis(action="task.created", object_kind="task", object_name=task.id, changes=changes)
        broker.run(enqueue_built_task(task, context))
    waiting, client = get_waiting_loop(), WaitingClient(id=client_id, holds_thread=True)
    awaited = waiting.run(
        waiting.waiters.wait_for_queued(task.id, queue=task.queue, client=client, timeout_s=timeout_s)
    )
    return awaited or build_record(task, context.now_ns)


def enqueue_built_task(task: NewTask, context: BrokerContext) -> Operation[None]:
    """Enqueue a new task. Raise QueueFull, TaskAlreadyExists, BrokerUnavailable."""
    request = enqueue(task, now_ns=context.now_ns, is_cluster=context.is_cluster)
    yield from _store_task(request, task, context)


def enqueue_built_task_once(task: NewTask, context: BrokerContext, *, until_s: int | None = None) -> Operation[None]:
    """Enqueue a new task, unless this operation enqueued its id within the last IDEMPOTENCY_TTL_S.

    That holds even if the task has ended and was deleted. After `until_s`, by its own clock, Redis refuses the task.
    Raise QueueFull, TaskAlreadyExists, BrokerUnavailable, EnqueuedTooLate.
    """
    scope = _id_scope(task.id)
    record = IdempotencyRecord(IdempotencyKey(scope=scope, fingerprint=scope), note=task.id.encode())
    request = enqueue_unique(task, now_ns=context.now_ns, record=record, until_s=until_s, is_cluster=context.is_cluster)
    yield from _store_task(request, task, context)


def forget_enqueued_ids(redis_queue: str, task_ids: Sequence[str]) -> Request[None]:
    """Let `enqueue_built_task_once` forget ids in a minute: the caller has stored that they were enqueued.

    A caller that may still enqueue one of them must pass `until_s`.
    """
    return expire_records(redis_queue, [_id_scope(task_id) for task_id in task_ids], ttl_s=_FORGOTTEN_TTL_S)


def _id_scope(task_id: str) -> str:
    # Scopes of clients have the id or the name of their key in place of "task id" (`parse_idempotency_key`).
    return hashlib.sha256(b"task id\0" + task_id.encode()).hexdigest()[:32]


def _store_task(request: Request[Any], task: NewTask, context: BrokerContext) -> Operation[None]:
    try:
        yield from ask_with_memory_check(request, queue=task.queue, size_bytes=len(task.payload), memory=context.memory)
    except QueueFull:
        yield from _forget_refused(task, context)
        raise


def _unique_enqueue(
    spec: TaskSpec, resolved: ResolvedQueue, headers: Mapping[str, str], idempotency_key: IdempotencyKey | None
) -> Operation[EnqueuedTask]:
    """Enqueue a task with a unique key or an idempotency key.

    It takes one round trip, and another one if an existing task is returned. Raise the errors of `enqueue_task`.
    """
    queue, context = resolved.redis_queue, (yield from get_context())
    try:
        ensure_enabled(resolved)
        task = build_task(spec, resolved, task_id=new_task_id(), now_ns=context.now_ns, headers=headers)
    except RunqyError:
        # The first request may have been valid when it was sent.
        if repeated := (yield from _find_repeated(spec, queue, idempotency_key)):
            return repeated
        raise
    record = _recorded(spec, task, context.now_ns, idempotency_key) if idempotency_key is not None else None
    request = enqueue_unique(task, now_ns=context.now_ns, record=record, is_cluster=context.is_cluster)
    try:
        outcome = yield from ask_with_memory_check(
            request, queue=queue, size_bytes=len(task.payload), memory=context.memory
        )
    except (BrokerFull, QueueMemoryExceeded):  # before the script ran, which would have found a repetition
        if repeated := (yield from _find_repeated(spec, queue, idempotency_key)):
            return repeated
        raise
    except QueueFull:
        yield from _forget_refused(task, context)
        raise
    if outcome is TaskCreated.NOW:
        return EnqueuedTask(build_record(task, context.now_ns))
    # In a cluster the lookup is written before the task, here for an id that no task got.
    yield from remove_lookups(queue, [task.id])
    if isinstance(outcome, Replayed):
        return (yield from _replay(spec, queue, outcome))
    assert isinstance(outcome, LockConflict)  # noqa: S101 (narrows the type: no other outcome is possible)
    return (yield from _get_existing(spec, queue, outcome.task_id))


def _find_repeated(
    spec: TaskSpec, queue: str, idempotency_key: IdempotencyKey | None
) -> Operation[EnqueuedTask | None]:
    """Return the task of an earlier request with the same idempotency key, if any. Raise the errors of `_replay`."""
    replayed = (yield from ask(find_replayed(queue, idempotency_key))) if idempotency_key is not None else None
    return None if replayed is None else (yield from _replay(spec, queue, replayed))


def _forget_refused(task: NewTask, context: BrokerContext) -> Operation[None]:
    # In a cluster the lookup is on another server, and is written before the task.
    if context.is_cluster:
        yield from remove_lookups(task.queue, [task.id])


def _get_existing(spec: TaskSpec, queue: str, task_id: str, *, is_replayed: bool = False) -> Operation[EnqueuedTask]:
    """Return the task that has the unique key, if on_conflict allows it. Raise TaskNotUnique, TaskNotFound."""
    if spec.unique is None or spec.unique.on_conflict is OnConflict.REJECT:
        raise TaskNotUnique(f"Task {task_id} has this unique_key.")
    (record,) = yield from ask(read_tasks([(queue, task_id)]))
    if record is None:
        raise TaskNotFound(f"Task {task_id}, which had this unique_key, has ended and was deleted.")
    return EnqueuedTask(record, is_existing=True, is_replayed=is_replayed)


def _replay(spec: TaskSpec, queue: str, replayed: Replayed) -> Operation[EnqueuedTask]:
    """Return the task of the first request with this idempotency key. Raise IdempotencyRecordUnreadable."""
    if replayed.holder:
        return (yield from _get_existing(spec, queue, replayed.holder, is_replayed=True))
    try:
        first = _decode(replayed.note)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise IdempotencyRecordUnreadable from None
    task = NewTask(
        id=first.id,
        queue=queue,
        # Defaults are appended before the closing brace, which `payload_end` includes.
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
    return EnqueuedTask(build_record(task, first.now_ns), is_replayed=True)


def _recorded(spec: TaskSpec, task: NewTask, now_ns: int, idempotency_key: IdempotencyKey) -> IdempotencyRecord:
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

"""Enqueue single tasks."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from queues.catalog import AllowedQueues, ResolvedQueue
from queues.definitions import QueueDefinition, QueueNotify
from queues.queries import get_catalog, resolve_queue
from queues.status import UNTOLD_WARNING
from queues.webhook_urls import find_host_error
from runqy.audit.operations import record_in_redis
from runqy.broker.broker import Broker
from runqy.broker.memory import MemoryUse, send_with_memory_check
from runqy.broker.request import AnyBroker, Request
from runqy.broker.streams.ends import Notify
from runqy.broker.tasks.enqueue import (
    OF_QUEUE,
    IdempotencyKey,
    IdempotencyRecord,
    LockConflict,
    NewTask,
    Replayed,
    TaskCreated,
    UniqueOutcome,
    claim_lookup,
    draw_task_ids,
    enqueue,
    enqueue_unique,
    expire_records,
    find_replayed,
)
from runqy.broker.tasks.reader import read_tasks, remove_lookups
from runqy.broker.tasks.record import TaskRecord
from runqy.core.telemetry.tracing import enqueue_span, trace_headers
from runqy.errors import (
    BrokerFull,
    IdempotencyKeyReused,
    IdempotencyRecordUnreadable,
    PayloadTooLarge,
    QueueDisabled,
    QueueFull,
    QueueMemoryExceeded,
    RequestInvalid,
    RunqyError,
    TaskAlreadyExists,
    TaskNotFound,
    TaskNotUnique,
)
from tasks import payloads
from tasks.waiting import WaitingClient
from tasks.waiting_loop import get_waiting_loop

_NS = 10**9
_MIN_AWAITED_RETENTION_S = 60
"""The minimum time that the result is kept for a client that waits for it."""
FORGOTTEN_TTL_S = 60
"""An allowance for the clocks of two processes, of which one takes over what the other was doing."""


class EnqueuedTask(msgspec.Struct, frozen=True):
    """The task that a request created or found."""

    record: TaskRecord
    is_existing: bool = False
    """An earlier task has the same unique key."""
    is_replayed: bool = False
    """The request is a repetition; this is the result of the first one."""
    warnings: tuple[str, ...] = ()


async def enqueue_task(  # noqa: PLR0913 (what all clients can request)
    broker: AnyBroker,
    requested: NewTask,
    *,
    is_awaited: bool = False,
    allowed_queues: AllowedQueues = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: IdempotencyKey | None = None,
) -> EnqueuedTask:
    """Enqueue a task in one round trip. With an idempotency key, a repeated request creates no second task.

    The key of a task whose id the client made is that of `key_of_task_id`. The result of a task that `is_awaited` is
    kept until the client has read it. `headers` are stored in the task. Raise QueueNotFound, QueueDisabled, QueueFull,
    PayloadInvalid, RequestInvalid, TaskNotUnique, TaskAlreadyExists, IdempotencyKeyReused, IdempotencyRecordUnreadable,
    BrokerUnavailable.
    """
    try:
        return await _enqueue(
            broker,
            requested,
            idempotency_key,
            is_awaited=is_awaited,
            allowed_queues=allowed_queues,
            headers=headers or {},
        )
    except (IdempotencyKeyReused, TaskAlreadyExists):
        if requested.id:
            raise task_id_used(requested.id) from None
        raise


def key_of_task_id(requested: NewTask, owner: str, idempotency_key: IdempotencyKey | None = None) -> IdempotencyKey:
    """Return the idempotency key that a requested id stands for. Raise RequestInvalid beside another one.

    `owner` is the client (`Identity.owner`), which alone can repeat its request.
    """
    if idempotency_key is not None:
        raise RequestInvalid(errors=["Idempotency-Key: Must not be sent with task_id, which does the same."])
    # Only what is set: in a later release tasks have more fields.
    fields = [item for item in msgspec.structs.asdict(requested).items() if item[1] != getattr(_UNSET, item[0])]
    # Clients cannot send such a key: it has a space.
    scope = f"{owner}\0task_id {requested.id}".encode()
    return IdempotencyKey(scope=_digest(scope), fingerprint=_digest(msgspec.msgpack.encode(fields)))


def task_id_used(task_id: str) -> TaskAlreadyExists:
    return TaskAlreadyExists(f"task_id: {task_id} is the id of a task that another request created.")


_UNSET = NewTask.requested(queue="", payload=b"")


async def _enqueue(  # noqa: PLR0913 (those of `enqueue_task`)
    broker: AnyBroker,
    requested: NewTask,
    idempotency_key: IdempotencyKey | None,
    *,
    is_awaited: bool,
    allowed_queues: AllowedQueues,
    headers: Mapping[str, str],
) -> EnqueuedTask:
    resolved = get_catalog().resolve(requested.queue, allowed_queues=allowed_queues)
    now_ns = broker.now_ns()
    try:
        ensure_enabled(resolved)
        task_id = requested.id or draw_task_ids(broker, resolved.redis_queue)[0]
        task = build_task(requested, resolved, task_id=task_id, now_ns=now_ns, headers=headers)
    except RunqyError:
        # The first request may have been valid when it was sent.
        if repeated := (await _find_repeated(broker, requested, resolved.redis_queue, idempotency_key)):
            return repeated
        raise
    if is_awaited:
        task = msgspec.structs.replace(task, retention_s=max(task.retention_s, _MIN_AWAITED_RETENTION_S))
    if requested.id and broker.is_cluster:
        await broker.send(claim_lookup(task))
    if idempotency_key is None and not task.unique_key:
        await enqueue_built_task(broker, task, now_ns=now_ns)
        return EnqueuedTask(task.as_record(now_ns), warnings=list_warnings(resolved, [requested], broker.memory))
    enqueued = await _enqueue_unique(broker, task, requested, now_ns, idempotency_key)
    return msgspec.structs.replace(enqueued, warnings=list_warnings(resolved, [requested], broker.memory))


def list_warnings(resolved: ResolvedQueue, requested: Iterable[object], memory: MemoryUse) -> tuple[str, ...]:
    """Return why tasks that were requested may wait, or their own webhooks may not be told of their ends.

    By what the process read last, without a round trip.
    """
    name = resolved.redis_queue
    if memory.is_unserved(name):
        return (f"No worker serves the queue {name}: its tasks wait until one does.",)
    if resolved.queue.deployment.redis_storage or not memory.is_served_by_go(name):
        return ()
    has_webhook = any(isinstance(each, NewTask) and each.notify and each.notify.url for each in requested)
    return (UNTOLD_WARNING.format(resolved.queue.name),) if has_webhook else ()


def enqueue_and_wait(
    broker: Broker, requested: NewTask, *, client_id: str, timeout_s: float, traceparent: str = ""
) -> TaskRecord:
    """Enqueue a task. Return it once it has ended, or in its state after `timeout_s`. Blocks. Recorded in the audit.

    `traceparent` is the client's trace context. Raise QueueNotFound, QueueDisabled, QueueFull, PayloadInvalid,
    RequestInvalid, BrokerUnavailable.
    """
    resolved = resolve_queue(requested.queue)
    ensure_enabled(resolved)
    now_ns = broker.now_ns()
    with enqueue_span(requested.queue, traceparent):
        headers = trace_headers(traceparent)
        (task_id,) = draw_task_ids(broker, resolved.redis_queue)
        task = build_task(requested, resolved, task_id=task_id, now_ns=now_ns, headers=headers)
        changes = {"queue": (None, task.queue)}
        # Before the task exists: changes of Redis are recorded first (ADR 0026).
        record_in_redis(action="task.created", object_kind="task", object_name=task.id, changes=changes)
        broker.run(enqueue_built_task(broker, task, now_ns=now_ns))
    waiting, client = get_waiting_loop(), WaitingClient(id=client_id, holds_thread=True)
    awaited = waiting.run(
        waiting.waiters.wait_for_queued(task.id, queue=task.queue, client=client, timeout_s=timeout_s)
    )
    return awaited or task.as_record(now_ns)


def ensure_enabled(resolved: ResolvedQueue) -> None:
    if not resolved.queue.is_enabled:
        raise QueueDisabled(f"The queue {resolved.queue.name} is disabled and accepts no tasks.")


def build_task(
    requested: NewTask,
    resolved: ResolvedQueue,
    *,
    task_id: str,
    now_ns: int,
    headers: Mapping[str, str],
) -> NewTask:
    """Return a requested task with what its queue decides. Raise PayloadInvalid, PayloadTooLarge, RequestInvalid."""
    limits = resolved.queue.limits
    if requested.notify and requested.notify.url:
        _check_webhook(requested.notify.url, resolved.queue)
    # Rounded up, as all that decides when it runs: a task never runs early.
    process_at_us = -(-(now_ns + requested.delay_ns) // 1000) if requested.delay_ns else requested.process_at_us
    task = msgspec.structs.replace(
        requested,
        id=task_id,
        queue=resolved.redis_queue,
        payload=payloads.add_defaults(requested.payload, resolved.queue.input),
        timeout_s=limits.active_timeout_s if requested.timeout_s == OF_QUEUE else requested.timeout_s,
        max_retry=limits.max_retry if requested.max_retry == OF_QUEUE else requested.max_retry,
        retention_s=limits.ttl_completed_s if requested.retention_s == OF_QUEUE else requested.retention_s,
        ttl_archived_s=limits.ttl_archived_s,
        process_at_us=process_at_us if process_at_us * 1000 > now_ns else 0,
        delay_ns=0,
        headers=headers,
        max_waiting=limits.max_waiting_tasks,
        notify=merge_notify(requested.notify, resolved.queue.notify),
    )
    if task.deadline_s and task.deadline_s * _NS <= max(now_ns, task.process_at_s * _NS):
        raise RequestInvalid(errors=["deadline: Must be in the future, and after delay or process_at."])
    if 0 < limits.max_payload_bytes < len(task.payload):
        raise PayloadTooLarge(
            f"data: The payload has {len(task.payload):,} bytes; the queue {resolved.queue.name} accepts "
            f"{limits.max_payload_bytes:,} (max_payload_bytes)."
        )
    return task


def _check_webhook(url: str, queue: QueueDefinition) -> None:
    if message := find_host_error(url, queue.webhook_hosts):
        raise RequestInvalid(errors=[f"webhook.url: {message}"])


def merge_notify(own: Notify | None, of_queue: QueueNotify) -> Notify | None:
    """Return who is told of a task's end: those that the request names, and the endpoints that cover its queue."""
    if not of_queue.endpoints:
        return own
    own = own or Notify()
    include_result = own.include_result or of_queue.include_result
    return msgspec.structs.replace(own, endpoints=True, revision=of_queue.revision, include_result=include_result)


async def enqueue_built_task(broker: AnyBroker, task: NewTask, *, now_ns: int) -> None:
    """Enqueue a new task. Raise QueueFull, TaskAlreadyExists, BrokerUnavailable."""
    request = enqueue(task, now_ns=now_ns, is_cluster=broker.is_cluster)
    try:
        await send_with_memory_check(broker, request, queue=task.queue, size_bytes=len(task.payload))
    except QueueFull:
        await _forget_refused(broker, task)
        raise


def enqueue_built_task_once(
    task: NewTask, *, now_ns: int, is_cluster: bool, until_s: int, owner: str = ""
) -> Request[UniqueOutcome]:
    """Enqueue a new task, unless this request enqueued its id within the last IDEMPOTENCY_TTL_S.

    That holds even if the task has ended and was deleted. After `until_s`, by its own clock, Redis refuses the task.
    `owner` is who asks, if others may ask with the same id. Raise QueueFull, TaskAlreadyExists, IdempotencyKeyReused
    if another owner enqueued the id.
    """
    record = IdempotencyRecord(_id_key(task.id, owner), response=task.id.encode())
    return enqueue_unique(task, now_ns=now_ns, record=record, until_s=until_s, is_cluster=is_cluster)


def find_enqueued_once(redis_queue: str, task_id: str, owner: str = "") -> Request[Replayed | None]:
    """Return whether `enqueue_built_task_once` enqueued an id, and has not forgotten it: None if not.

    Raise IdempotencyKeyReused if another owner enqueued it.
    """
    return find_replayed(redis_queue, _id_key(task_id, owner))


def forget_enqueued_ids(redis_queue: str, task_ids: Sequence[str]) -> Request[None]:
    """Let `enqueue_built_task_once` forget ids in a minute: the caller has stored that they were enqueued.

    A caller that may still enqueue one of them must pass `until_s`.
    """
    return expire_records(redis_queue, [_id_key(task_id).scope for task_id in task_ids], ttl_s=FORGOTTEN_TTL_S)


def _id_key(task_id: str, owner: str = "") -> IdempotencyKey:
    # Scopes of clients have the id or the name of their key in place of "task id" (`parse_idempotency_key`).
    scope = _digest(b"task id\0" + task_id.encode())
    return IdempotencyKey(scope=scope, fingerprint=_digest(owner.encode()) if owner else scope)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


async def _enqueue_unique(
    broker: AnyBroker, task: NewTask, requested: NewTask, now_ns: int, idempotency_key: IdempotencyKey | None
) -> EnqueuedTask:
    """Enqueue a task with a unique key or an idempotency key.

    It takes one round trip, and another one if an existing task is returned. Raise the errors of `enqueue_task`.
    """
    record = record_of(task, requested, idempotency_key, now_ns) if idempotency_key is not None else None
    request = enqueue_unique(task, now_ns=now_ns, record=record, is_cluster=broker.is_cluster)
    try:
        outcome = await send_with_memory_check(broker, request, queue=task.queue, size_bytes=len(task.payload))
    except (BrokerFull, QueueMemoryExceeded):  # before the script ran, which would have found a repetition
        if repeated := (await _find_repeated(broker, requested, task.queue, idempotency_key)):
            return repeated
        raise
    except QueueFull:
        await _forget_refused(broker, task)
        raise
    if outcome is TaskCreated.NOW:
        return EnqueuedTask(task.as_record(now_ns))
    if not (requested.id and isinstance(outcome, Replayed)):  # else the lookup is that of the first request's task
        await _forget_refused(broker, task)
    if isinstance(outcome, Replayed):
        return await _replay(broker, requested, task.queue, outcome)
    assert isinstance(outcome, LockConflict)  # noqa: S101 (narrows the type: no other outcome is possible)
    return await _get_existing(broker, requested, task.queue, outcome.task_id)


def record_of(task: NewTask, requested: NewTask, idempotency_key: IdempotencyKey, now_ns: int) -> IdempotencyRecord:
    """Return what is stored for responses to repetitions of a request."""
    # Of the payload only its end, which the defaults of the queue's schema precede: the rest is in each request.
    payload_end = task.payload[len(requested.payload) - 1 :]
    response = _encode_response((now_ns, msgspec.structs.replace(task, payload=payload_end, unique_key="")))
    return IdempotencyRecord(idempotency_key, response, bool(task.unique_key) and task.returns_existing)


async def _find_repeated(
    broker: AnyBroker, requested: NewTask, queue: str, idempotency_key: IdempotencyKey | None
) -> EnqueuedTask | None:
    """Return the task of an earlier request with the same idempotency key, if any. Raise the errors of `_replay`."""
    replayed = await broker.send(find_replayed(queue, idempotency_key)) if idempotency_key is not None else None
    return None if replayed is None else await _replay(broker, requested, queue, replayed)


async def _forget_refused(broker: AnyBroker, task: NewTask) -> None:
    # In a cluster the lookup is on another server, and is written before the task.
    if broker.is_cluster:
        await remove_lookups(broker, task.queue, [task.id])


async def _get_existing(
    broker: AnyBroker, requested: NewTask, queue: str, task_id: str, *, is_replayed: bool = False
) -> EnqueuedTask:
    """Return the task that has the unique key, if the request allows it. Raise TaskNotUnique, TaskNotFound."""
    if not requested.returns_existing:
        raise TaskNotUnique(f"Task {task_id} has this unique_key.")
    (record,) = await read_tasks(broker, [(queue, task_id)])
    if record is None:
        raise TaskNotFound(f"Task {task_id}, which had this unique_key, has ended and was deleted.")
    return EnqueuedTask(record, is_existing=True, is_replayed=is_replayed)


async def _replay(broker: AnyBroker, requested: NewTask, queue: str, replayed: Replayed) -> EnqueuedTask:
    """Return the task of the first request with this idempotency key. Raise IdempotencyRecordUnreadable."""
    if replayed.holder:
        return await _get_existing(broker, requested, queue, replayed.holder, is_replayed=True)
    try:
        now_ns, first = _decode_response(replayed.response)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise IdempotencyRecordUnreadable from None
    # Defaults are appended before the closing brace.
    payload = requested.payload[:-1] + first.payload
    task = msgspec.structs.replace(first, queue=queue, payload=payload, unique_key=requested.unique_key)
    return EnqueuedTask(task.as_record(now_ns), is_replayed=True)


# What a response contains beyond its request: the time and the task, stored with the idempotency key.
_encode_response = msgspec.msgpack.Encoder().encode
_decode_response = msgspec.msgpack.Decoder(tuple[Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)], NewTask]).decode

"""Enqueue many tasks on one queue, with a result for each."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgspec

from queues.catalog import AllowedQueues, ResolvedQueue
from queues.queries import get_catalog
from runqy.broker import constants
from runqy.broker.memory import ensure_memory, send_all_with_memory_check
from runqy.broker.request import AnyBroker, Request
from runqy.broker.tasks.enqueue import (
    IdempotencyKey,
    LockConflict,
    NewTask,
    Replayed,
    TaskCreated,
    claim_lookup,
    draw_task_ids,
    enqueue_unique,
    find_replayed,
    new_task_id,
)
from runqy.broker.tasks.enqueue_batch import (
    BatchPart,
    EnqueuedPart,
    ItemOutcome,
    RequestToken,
    delete_idempotency_record,
    enqueue_many,
    enqueue_unique_batch,
    find_enqueued_part,
)
from runqy.broker.tasks.reader import remove_lookups
from runqy.core.formats.json_decoding import read_json
from runqy.errors import (
    BatchConflict,
    BatchRefused,
    BatchTooLarge,
    BrokerFull,
    BrokerUnavailable,
    IdempotencyKeyReused,
    IdempotencyRecordUnreadable,
    QueueDisabled,
    QueueFull,
    QueueMemoryExceeded,
    RequestInvalid,
    RunqyError,
    TaskAlreadyExists,
    TaskNotUnique,
)
from tasks.operations import build_task, ensure_enabled, key_of_task_id, list_warnings, record_of, task_id_used

MAX_REQUEST_TASKS = 10_000
_MAX_ERRORS = 100

_OF_REQUEST = (
    BrokerUnavailable,
    IdempotencyKeyReused,
    IdempotencyRecordUnreadable,
    QueueDisabled,
    QueueFull,
    QueueMemoryExceeded,
)
"""Errors of items that concern all items of a request."""

RequestedItem: TypeAlias = NewTask | RunqyError
"""A requested task, or the error in its description."""


@dataclass(frozen=True, slots=True)
class RequestedTasks:
    """Tasks that one request asks for."""

    queue: str
    """In any spelling."""
    items: Sequence[RequestedItem]
    owner: str = ""
    """The client (`Identity.owner`), which alone can repeat a request with ids."""


class ItemResult(msgspec.Struct, frozen=True):
    """The task that was created for an item of a request, or its error."""

    task_id: str | None = None
    error: RunqyError | None = None
    is_existing: bool = False
    """An earlier task holds the unique key."""


@dataclass(frozen=True, slots=True)
class EnqueuedTasks:
    """The results of a request, in the order of its items."""

    results: list[ItemResult]
    is_replayed: bool = False
    """The request is a repetition of an earlier one with the same idempotency key."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    """The queue of a request, and what all its tasks share."""

    resolved: ResolvedQueue
    headers: Mapping[str, str]
    idempotency_key: IdempotencyKey | None

    def build(self, item: RequestedItem, task_id: str, now_ns: int) -> NewTask | RunqyError:
        if isinstance(item, RunqyError):
            return item
        try:
            return build_task(item, self.resolved, task_id=task_id, now_ns=now_ns, headers=self.headers)
        except RunqyError as error:
            return error


async def enqueue_tasks(
    broker: AnyBroker,
    *,
    spec: RequestedTasks,
    allowed_queues: AllowedQueues = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: IdempotencyKey | None = None,
) -> EnqueuedTasks:
    """Enqueue tasks on one queue, at most 500 in each round trip.

    With ids or an idempotency key, a repeated request is not applied twice, and completes a request that was
    interrupted. Raise BatchRefused or BatchConflict when no task is queued, BatchTooLarge, and the errors of
    `enqueue_task`.
    """
    items = spec.items
    check_size(len(items))
    resolved = get_catalog().resolve(spec.queue, allowed_queues=allowed_queues)
    target = _Target(resolved, headers or {}, idempotency_key)
    if any(isinstance(item, NewTask) and item.id for item in items):
        results = await _enqueue_by_id(broker, items, target, spec.owner)
        return EnqueuedTasks(results, warnings=list_warnings(resolved, items, broker.memory))
    first = None
    if idempotency_key is not None:
        first = await broker.send(find_enqueued_part(resolved.redis_queue, idempotency_key))
    # A repetition is completed even if the queue has been disabled, or Redis has filled up, since the first request.
    if first is None:
        ensure_enabled(resolved)
        size = sum(len(item.payload) for item in items if isinstance(item, NewTask))
        await ensure_memory(broker, resolved.redis_queue, size_bytes=size)
    if idempotency_key is None and not any(isinstance(item, NewTask) and item.unique_key for item in items):
        enqueued = EnqueuedTasks(await _enqueue(broker, items, target))
        _check_any_queued(enqueued.results)
    elif first is not None:
        enqueued = await _unique_enqueue(broker, items, target, first.request_token, is_repetition=True)
    else:
        request_token = RequestToken(new_task_id(), broker.now_ns())
        enqueued = await _unique_enqueue(broker, items, target, request_token, is_repetition=False)
    return replace(enqueued, warnings=list_warnings(resolved, items, broker.memory))


def check_size(count: int) -> None:
    """Raise RequestInvalid if there are no tasks, BatchTooLarge if there are too many."""
    if not count:
        raise RequestInvalid(errors=["jobs: Must not be empty."])
    if count > MAX_REQUEST_TASKS:
        raise BatchTooLarge(f"jobs: {count} tasks exceed the limit of {MAX_REQUEST_TASKS}; send several requests.")


def check_ids(items: Sequence[RequestedItem]) -> None:
    """Raise RequestInvalid if some tasks have ids that the client made, and others have none."""
    if len({bool(item.id) for item in items if isinstance(item, NewTask)}) > 1:
        raise RequestInvalid(errors=["jobs: Either each job has a task_id, or none has."])


def _check_any_queued(results: Sequence[ItemResult]) -> None:
    """Raise BatchRefused, BatchConflict, or the error of the whole request, if no item became a task."""
    errors = [result.error for result in results if result.error is not None]
    if len(errors) < len(results):
        return
    # These concern the whole request: the client has to see their status, not that of refused jobs.
    for error in errors:
        if isinstance(error, _OF_REQUEST):
            raise error
    details = [f"jobs[{i}]: {error.detail}" for i, error in enumerate(errors[:_MAX_ERRORS])]
    are_conflicts = all(isinstance(error, TaskNotUnique | TaskAlreadyExists) for error in errors)
    refused = BatchConflict if are_conflicts else BatchRefused
    raise refused(f"None of the {len(results)} tasks was queued; the first error: {details[0]}", details)


async def _enqueue(broker: AnyBroker, items: Sequence[RequestedItem], target: _Target) -> list[ItemResult]:
    """Enqueue tasks without unique keys, in a request without an idempotency key.

    Raise BrokerUnavailable if the first chunk fails; if a later one fails, it is the error of all items from there on.
    """
    now_ns = broker.now_ns()
    results: list[ItemResult] = []
    # Tasks are built chunk by chunk, so that the event loop serves other requests while one is sent.
    for start in range(0, len(items), constants.BATCH_MAX_TASKS):
        chunk = items[start : start + constants.BATCH_MAX_TASKS]
        ids = draw_task_ids(broker, target.resolved.redis_queue, len(chunk))
        built = [target.build(item, ids[i], now_ns) for i, item in enumerate(chunk)]
        try:
            outcomes = iter(await enqueue_many(broker, [task for task in built if isinstance(task, NewTask)]))
        except BrokerUnavailable as error:
            if not results:
                raise
            results += [ItemResult(error=error)] * (len(items) - start)
            break
        refused = []
        for task in built:
            outcome = task if isinstance(task, RunqyError) else next(outcomes)
            if isinstance(outcome, RunqyError):
                results.append(ItemResult(error=outcome))
            else:
                results.append(ItemResult(task.id if isinstance(task, NewTask) else None))
            if isinstance(task, NewTask) and isinstance(outcome, QueueFull):
                refused.append(task.id)
        if refused:
            await remove_lookups(broker, target.resolved.redis_queue, refused)
            if len(refused) == len(built):  # the queue is full: the rest would not fit either
                results += [ItemResult(error=results[-1].error)] * (len(items) - len(results))
                break
    return results


async def _enqueue_by_id(
    broker: AnyBroker, items: Sequence[RequestedItem], target: _Target, owner: str
) -> list[ItemResult]:
    """Enqueue tasks whose ids the client made, each as `enqueue_task` does: an id that is repeated returns its task.

    Raise RequestInvalid, BrokerUnavailable if the first chunk fails, and the errors of `_check_any_queued`.
    """
    check_ids(items)
    results: list[ItemResult] = []
    for start in range(0, len(items), constants.BATCH_MAX_TASKS):
        chunk = items[start : start + constants.BATCH_MAX_TASKS]
        try:
            results += await _enqueue_chunk_by_id(broker, chunk, target, owner)
        except BrokerUnavailable as error:
            if not results:
                raise
            results += [ItemResult(error=error)] * (len(items) - start)
            break
    _check_any_queued(results)
    return results


async def _enqueue_chunk_by_id(
    broker: AnyBroker, chunk: Sequence[RequestedItem], target: _Target, owner: str
) -> list[ItemResult]:
    now_ns = broker.now_ns()
    queue = target.resolved.redis_queue
    size = sum(len(item.payload) for item in chunk if isinstance(item, NewTask))
    refusal: RunqyError | None = None
    try:
        ensure_enabled(target.resolved)
        await ensure_memory(broker, queue, size_bytes=size)
    except (QueueDisabled, BrokerFull, QueueMemoryExceeded) as error:
        refusal = error
    items = [item for item in chunk if isinstance(item, NewTask)]
    keys = [key_of_task_id(item, owner, target.idempotency_key) for item in items]
    tasks = [refusal or target.build(item, item.id, now_ns) for item in items]
    if broker.is_cluster:
        tasks = await claim_lookups(broker, tasks)
    requests: list[Request[Any]] = []
    for item, key, task in zip(items, keys, tasks, strict=True):
        if isinstance(task, NewTask):
            record = record_of(task, item, key, now_ns)
            request = enqueue_unique(task, now_ns=now_ns, record=record, is_cluster=broker.is_cluster)
            requests.append(msgspec.structs.replace(request, is_bulky=True))
        else:  # the first request may have been valid when it was sent
            requests.append(find_replayed(queue, key))
    outcomes = await send_all_with_memory_check(broker, requests, queue=queue, size_bytes=size)
    refused = [item.id for item, outcome in zip(items, outcomes, strict=True) if isinstance(outcome, QueueFull)]
    if broker.is_cluster and refused:
        await remove_lookups(broker, queue, refused)
    results = iter([_result_by_id(*values) for values in zip(items, tasks, outcomes, strict=True)])
    return [next(results) if isinstance(item, NewTask) else ItemResult(error=item) for item in chunk]


async def claim_lookups(broker: AnyBroker, tasks: Sequence[NewTask | RunqyError]) -> list[NewTask | RunqyError]:
    """Write the lookups of tasks. Those whose ids belong to other queues are replaced by errors."""
    claims = iter(await broker.send_all([claim_lookup(task) for task in tasks if isinstance(task, NewTask)]))
    claimed = [(task, next(claims) if isinstance(task, NewTask) else None) for task in tasks]
    return [outcome if isinstance(outcome, RunqyError) else task for task, outcome in claimed]


def _result_by_id(item: NewTask, task: NewTask | RunqyError, outcome: Any) -> ItemResult:
    """Return the result of an item, by its task or why there is none, and by what Redis replied."""
    if isinstance(outcome, Replayed):
        return ItemResult(outcome.holder or item.id, is_existing=bool(outcome.holder))
    if isinstance(outcome, IdempotencyKeyReused | TaskAlreadyExists):
        return ItemResult(error=task_id_used(item.id))
    if isinstance(outcome, RunqyError):
        return ItemResult(error=outcome)
    if isinstance(task, RunqyError):
        return ItemResult(error=task_id_used(item.id) if isinstance(task, TaskAlreadyExists) else task)
    return _result(item, item.id, outcome)


async def _unique_enqueue(
    broker: AnyBroker,
    items: Sequence[RequestedItem],
    target: _Target,
    request_token: RequestToken,
    *,
    is_repetition: bool,
) -> EnqueuedTasks:
    """Enqueue tasks with unique keys or an idempotency key, in parts.

    With an idempotency key, ids and times are those of the first request that used it. If no item became a task, the
    key may be used again, and the errors of `_check_any_queued` are raised.
    """
    results: list[ItemResult] = []
    for number, indexes in enumerate(_parts(items)):
        part = _part(items, indexes, number, target, request_token)
        request = enqueue_unique_batch(part, request_token, target.idempotency_key, is_cluster=broker.is_cluster)
        size = sum(len(task.payload) for task in part.tasks)
        (enqueued,) = await send_all_with_memory_check(broker, [request], queue=part.queue, size_bytes=size)
        if isinstance(enqueued, RunqyError):
            results += [ItemResult(error=enqueued)] * len(indexes)
        elif enqueued.request_token != request_token:  # another process handled the same request first
            await remove_lookups(broker, part.queue, [task.id for task in part.tasks])
            return await _unique_enqueue(broker, items, target, enqueued.request_token, is_repetition=True)
        else:
            refused = [
                task.id
                # A repetition has fewer outcomes if the part was shortened.
                for task, outcome in zip(part.tasks, enqueued.outcomes, strict=False)
                if isinstance(outcome, QueueFull)
            ]
            if refused:
                await remove_lookups(broker, part.queue, refused)
            results += _results(items, indexes, enqueued)
    try:
        _check_any_queued(results)
    except (BatchConflict, BatchRefused, QueueFull):
        if target.idempotency_key is not None:
            record = delete_idempotency_record(target.resolved.redis_queue, target.idempotency_key, request_token)
            await broker.send(record)
        raise
    return EnqueuedTasks(results, is_replayed=is_repetition)


def _part(
    items: Sequence[RequestedItem], indexes: range, number: int, target: _Target, request_token: RequestToken
) -> BatchPart:
    """Return a part of a request. Its stored response has the errors of its items."""
    built = [target.build(items[index], _task_id(request_token, index), request_token.now_ns) for index in indexes]
    return BatchPart(
        queue=target.resolved.redis_queue,
        tasks=[task for task in built if isinstance(task, NewTask)],
        number=number,
        response=msgspec.json.encode([task.detail if isinstance(task, RunqyError) else None for task in built]),
    )


def _parts(items: Sequence[RequestedItem]) -> Iterator[range]:
    # The indexes depend on the items alone, so that a repetition has the same parts.
    start = size = 0
    for index, item in enumerate(items):
        grows = len(item.payload) if isinstance(item, NewTask) else 0
        if index > start and (index - start == constants.BATCH_MAX_TASKS or size + grows > constants.BATCH_MAX_BYTES):
            yield range(start, index)
            start, size = index, 0
        size += grows
    yield range(start, len(items))


def _results(items: Sequence[RequestedItem], indexes: range, enqueued: EnqueuedPart) -> Iterator[ItemResult]:
    """Yield the results of the items of a part. Raise IdempotencyRecordUnreadable."""
    try:
        errors = read_json(enqueued.response, list[str | None])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise IdempotencyRecordUnreadable from None
    if len(errors) != len(indexes) or errors.count(None) != len(enqueued.outcomes):
        raise IdempotencyRecordUnreadable
    outcomes = iter(enqueued.outcomes)
    for index, error in zip(indexes, errors, strict=True):
        if error is not None:
            yield ItemResult(error=RequestInvalid(error))
        else:
            yield _result(items[index], _task_id(enqueued.request_token, index), next(outcomes))


def _result(item: RequestedItem, task_id: str, outcome: ItemOutcome) -> ItemResult:
    if isinstance(outcome, TaskCreated):
        return ItemResult(task_id)
    if not isinstance(outcome, LockConflict):
        return ItemResult(error=outcome)
    if isinstance(item, NewTask) and item.returns_existing:
        return ItemResult(outcome.task_id, is_existing=True)
    return ItemResult(error=TaskNotUnique(f"Task {outcome.task_id} has this unique_key."))


def _task_id(request_token: RequestToken, index: int) -> str:
    """Return the id of an item's task: the same in every repetition. Raise IdempotencyRecordUnreadable."""
    try:
        namespace = uuid.UUID(request_token.token)
    except ValueError:
        raise IdempotencyRecordUnreadable from None
    return str(uuid.uuid5(namespace, str(index)))

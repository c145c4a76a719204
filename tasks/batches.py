"""Puts many tasks on one queue, with an outcome for each."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from queues.names import AllowedQueues, ResolvedQueue
from queues.queries import get_catalog
from runqy.broker import timing
from runqy.broker.enqueue import Created, IdempotencyKey, LockHeld, NewTask, new_task_id, new_task_ids
from runqy.broker.enqueue_batch import (
    BatchPart,
    EnqueuedPart,
    ItemOutcome,
    RequestToken,
    enqueue_many,
    enqueue_unique_batch,
    find_enqueued_part,
)
from runqy.broker.lookups import forget_lookups
from runqy.broker.memory import ask_all_to_add, require_memory
from runqy.broker.operation import Operation, ask, get_context
from runqy.errors import (
    BatchConflict,
    BatchRefused,
    BatchTooLarge,
    BrokerUnavailable,
    IdempotencyKeyReused,
    QueueFull,
    RequestInvalid,
    RunqyError,
    TaskNotUnique,
)
from tasks.task_specs import OnConflict, TaskSpec, build_task, ensure_enabled

MOST_TASKS = 10_000
_MOST_ERRORS_SHOWN = 100

BatchItem: TypeAlias = TaskSpec | RunqyError
"""A task as a client asks for it, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A batch as a client asks for it."""

    queue: str
    """In any spelling."""
    items: Sequence[BatchItem]


@dataclass(frozen=True, slots=True)
class BatchItemResult:
    """The task that an item of a batch led to, or an error."""

    task_id: str | None = None
    error: RunqyError | None = None
    is_existing: bool = False
    """The task existed before, under the same unique key."""


@dataclass(frozen=True, slots=True)
class EnqueuedBatch:
    """What a batch led to, item by item."""

    results: list[BatchItemResult]
    is_replayed: bool = False
    """The request is a repetition."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a batch goes, and what goes with each task."""

    resolved: ResolvedQueue
    headers: Mapping[str, str]
    idempotency_key: IdempotencyKey | None

    def build(self, item: BatchItem, task_id: str, now_ns: int) -> NewTask | RunqyError:
        """Return the task of an item, or what is wrong with it."""
        if isinstance(item, RunqyError):
            return item
        try:
            return build_task(item, self.resolved, task_id=task_id, now_ns=now_ns, headers=self.headers)
        except RunqyError as error:
            return error


def enqueue_batch(
    *,
    spec: BatchSpec,
    allowed_queues: AllowedQueues = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: IdempotencyKey | None = None,
) -> Operation[EnqueuedBatch]:
    """Put tasks on one queue, at most 500 in each round trip.

    The same request is done once where it has an idempotency key, and to its end if it was cut short before. Raises
    BatchRefused or BatchConflict when no task is queued, BatchTooLarge, and as `enqueue_task` does.
    """
    items = spec.items
    check_size(len(items))
    resolved = get_catalog().resolve(spec.queue, allowed_queues=allowed_queues)
    target = _Target(resolved, headers or {}, idempotency_key)
    first = None
    if idempotency_key is not None:
        first = yield from ask(find_enqueued_part(resolved.redis_queue, idempotency_key))
    if first is None:
        ensure_enabled(resolved)
        yield from require_memory(resolved.redis_queue, memory=(yield from get_context()).memory)
    if idempotency_key is None and not any(isinstance(item, TaskSpec) and item.unique for item in items):
        batch = EnqueuedBatch((yield from _enqueue(items, target)))
    elif first is not None:
        batch = yield from _unique_enqueue(items, target, first.request_token, is_repetition=True)
    else:
        context = yield from get_context()
        request_token = RequestToken(new_task_id(), context.now_ns)
        batch = yield from _unique_enqueue(items, target, request_token, is_repetition=False)
    _check_any_queued(batch.results)
    return batch


def check_size(count: int) -> None:
    """Raise RequestInvalid for no tasks, BatchTooLarge for too many."""
    if not count:
        raise RequestInvalid(errors=["jobs: must not be empty"])
    if count > MOST_TASKS:
        raise BatchTooLarge(f"jobs: has {count} tasks, the limit is {MOST_TASKS}.")


def _check_any_queued(results: Sequence[BatchItemResult]) -> None:
    """Raise BatchRefused, BatchConflict, or what else concerns all items, if none became a task."""
    errors = [result.error for result in results if result.error is not None]
    if len(errors) < len(results):
        return
    for error in errors:
        if isinstance(error, BrokerUnavailable | IdempotencyKeyReused | QueueFull):
            raise error
    shown = [f"jobs[{i}]: {error.detail}" for i, error in enumerate(errors[:_MOST_ERRORS_SHOWN])]
    refused = BatchConflict if all(isinstance(error, TaskNotUnique) for error in errors) else BatchRefused
    raise refused(f"None of the {len(results)} tasks was queued; the first: {shown[0]}", shown)


def _enqueue(items: Sequence[BatchItem], target: _Target) -> Operation[list[BatchItemResult]]:
    """Queue tasks that have no unique key, in a request without an idempotency key.

    Tasks are built and sent in chunks, so that an event loop serves others in between. Raises BrokerUnavailable when
    the first chunk fails; when a later one does, it is the error of all items from there on.
    """
    context = yield from get_context()
    results: list[BatchItemResult] = []
    for start in range(0, len(items), timing.BATCH_MAX_TASKS):
        chunk = items[start : start + timing.BATCH_MAX_TASKS]
        ids = new_task_ids(len(chunk))
        built = [target.build(item, ids[i], context.now_ns) for i, item in enumerate(chunk)]
        try:
            outcomes = iter((yield from enqueue_many([task for task in built if isinstance(task, NewTask)])))
        except BrokerUnavailable as error:
            if not results:
                raise
            results += [BatchItemResult(error=error)] * (len(items) - start)
            break
        refused = []
        for task in built:
            outcome = task if isinstance(task, RunqyError) else next(outcomes)
            if isinstance(outcome, RunqyError):
                results.append(BatchItemResult(error=outcome))
            else:
                results.append(BatchItemResult(task.id if isinstance(task, NewTask) else None))
            if isinstance(task, NewTask) and isinstance(outcome, QueueFull):
                refused.append(task.id)
        if refused:
            yield from forget_lookups(target.resolved.redis_queue, refused)
            if len(refused) == len(built):  # the rest would not fit either
                results += [BatchItemResult(error=results[-1].error)] * (len(items) - len(results))
                break
    return results


def _unique_enqueue(
    items: Sequence[BatchItem], target: _Target, request_token: RequestToken, *, is_repetition: bool
) -> Operation[EnqueuedBatch]:
    """Queue tasks that have unique keys or come with an idempotency key, part by part.

    With an idempotency key, ids and times are those of the request that used it first.
    """
    context = yield from get_context()
    results: list[BatchItemResult] = []
    for number, places in enumerate(_parts(items)):
        part = _part(items, places, number, target, request_token)
        request = enqueue_unique_batch(part, request_token, target.idempotency_key, is_cluster=context.is_cluster)
        (enqueued,) = yield from ask_all_to_add([request], queue=part.queue, memory=context.memory)
        if isinstance(enqueued, RunqyError):
            results += [BatchItemResult(error=enqueued)] * len(places)
        elif enqueued.request_token != request_token:  # another process was quicker with the same request
            yield from forget_lookups(part.queue, [task.id for task in part.tasks])
            return (yield from _unique_enqueue(items, target, enqueued.request_token, is_repetition=True))
        else:
            refused = [
                task.id
                for task, outcome in zip(part.tasks, enqueued.outcomes, strict=False)  # of a repetition: fewer, if cut
                if isinstance(outcome, QueueFull)
            ]
            if refused:
                yield from forget_lookups(part.queue, refused)
            results += _results(items, places, enqueued)
    return EnqueuedBatch(results, is_replayed=is_repetition)


def _part(
    items: Sequence[BatchItem], places: range, number: int, target: _Target, request_token: RequestToken
) -> BatchPart:
    """Return a part of a batch; it keeps what was wrong with its items when they were first looked at."""
    built = [target.build(items[place], _task_id(request_token, place), request_token.now_ns) for place in places]
    return BatchPart(
        queue=target.resolved.redis_queue,
        tasks=[task for task in built if isinstance(task, NewTask)],
        number=number,
        note=msgspec.json.encode([task.detail if isinstance(task, RunqyError) else None for task in built]),
    )


def _parts(items: Sequence[BatchItem]) -> Iterator[range]:
    """Divide the items' places into parts by nothing but what was sent: a repetition must divide the same way."""
    start = size = 0
    for place, item in enumerate(items):
        grows = len(item.payload) if isinstance(item, TaskSpec) else 0
        if place > start and (place - start == timing.BATCH_MAX_TASKS or size + grows > timing.BATCH_MAX_BYTES):
            yield range(start, place)
            start, size = place, 0
        size += grows
    yield range(start, len(items))


def _results(items: Sequence[BatchItem], places: range, enqueued: EnqueuedPart) -> Iterator[BatchItemResult]:
    """Return what the items of a part led to."""
    errors: list[str | None] = msgspec.json.decode(enqueued.note)
    outcomes = iter(enqueued.outcomes)
    for place, error in zip(places, errors, strict=True):
        if error is not None:
            yield BatchItemResult(error=RequestInvalid(error))
        else:
            yield _result(items[place], _task_id(enqueued.request_token, place), next(outcomes))


def _result(item: BatchItem, task_id: str, outcome: ItemOutcome) -> BatchItemResult:
    """Return what an item led to whose task was to be created."""
    if isinstance(outcome, Created):
        return BatchItemResult(task_id)
    if not isinstance(outcome, LockHeld):
        return BatchItemResult(error=outcome)
    returns_existing = (
        isinstance(item, TaskSpec) and item.unique is not None and item.unique.on_conflict is OnConflict.RETURN
    )
    if returns_existing:
        return BatchItemResult(outcome.task_id, is_existing=True)
    return BatchItemResult(error=TaskNotUnique(f"The task {outcome.task_id} has this unique_key."))


def _task_id(request_token: RequestToken, place: int) -> str:
    """Return the id of an item's task, the same in every repetition of the request."""
    return str(uuid.uuid5(uuid.UUID(request_token.token), str(place)))

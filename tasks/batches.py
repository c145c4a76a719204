"""Puts many tasks on one queue, with an outcome for each."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from queues.names import ResolvedQueue
from queues.queries import resolve_queue
from runqy.broker import timing
from runqy.broker.batching import CALLS_AT_ONCE, enqueue_many
from runqy.broker.broker import Broker
from runqy.broker.creating import Created, Creation, LockHeld, Maker, Once, Outcome, Part, create, find_creation
from runqy.broker.lookups import forget_lookups
from runqy.broker.producing import NewTask, new_task_id
from runqy.errors import (
    BatchConflict,
    BatchRefused,
    BatchTooLarge,
    BrokerUnavailable,
    IdempotencyKeyReused,
    RequestInvalid,
    RunqyError,
    TaskNotUnique,
)
from tasks.orders import OnConflict, TaskOrder, make_task, refuse_disabled

MOST_TASKS = 10_000
_MOST_ERRORS_TOLD = 100

Element = TaskOrder | RunqyError
"""What is asked for, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """What somebody wants to have done on one queue, named in any spelling."""

    queue: str
    elements: Sequence[Element]


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What became of one element of a batch: a task, or an error."""

    task_id: str | None = None
    error: RunqyError | None = None
    is_existing: bool = False
    """The task was there before, under the same unique key."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a batch, element by element."""

    items: list[BatchItem]
    is_replayed: bool = False
    """The request is a repetition."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a batch goes, and what goes with each task."""

    resolved: ResolvedQueue
    headers: Mapping[str, str]
    once: Once | None

    def task(self, element: Element, task_id: str, now_ns: int) -> NewTask | RunqyError:
        """Return the task that an element makes, or what is wrong with it."""
        if isinstance(element, RunqyError):
            return element
        try:
            return make_task(element, self.resolved, task_id=task_id, now_ns=now_ns, headers=self.headers)
        except RunqyError as error:
            return error


def enqueue_batch(
    broker: Broker,
    *,
    order: BatchOrder,
    among: frozenset[str] | None = None,
    headers: Mapping[str, str] | None = None,
    once: Once | None = None,
) -> Batch:
    """Put tasks on one queue; with `once` the same request only once, and to its end if it was cut short.

    Raises BatchRefused or BatchConflict when no task is queued, BatchTooLarge, and as `enqueue_task` does.
    """
    elements = order.elements
    check_size(len(elements))
    target = _Target(resolve_queue(order.queue, among=among), headers or {}, once)
    first = broker.run(find_creation(target.resolved.redis_queue, once)) if once is not None else None
    if first is None:
        refuse_disabled(target.resolved)
    if once is None and not any(isinstance(element, TaskOrder) and element.unique for element in elements):
        batch = Batch(_enqueue(broker, elements, target))
    else:
        maker = first.maker if first is not None else Maker(new_task_id(), broker.now_ns())
        batch = _create(broker, elements, target, maker, is_repetition=first is not None)
    _check_any_queued(batch.items)
    return batch


def check_size(count: int) -> None:
    """Raise RequestInvalid for no tasks, BatchTooLarge for too many."""
    if not count:
        raise RequestInvalid(errors=["jobs: must not be empty"])
    if count > MOST_TASKS:
        raise BatchTooLarge(f"jobs: has {count} tasks, the limit is {MOST_TASKS}.")


def _check_any_queued(items: Sequence[BatchItem]) -> None:
    """Raise BatchRefused, BatchConflict, or what else concerns them all, if no element became a task."""
    errors = [item.error for item in items if item.error is not None]
    if len(errors) < len(items):
        return
    for error in errors:
        if isinstance(error, BrokerUnavailable | IdempotencyKeyReused):
            raise error
    told = [f"jobs[{i}]: {error.detail}" for i, error in enumerate(errors[:_MOST_ERRORS_TOLD])]
    refused = BatchConflict if all(isinstance(error, TaskNotUnique) for error in errors) else BatchRefused
    raise refused(f"None of the {len(items)} tasks was queued; the first: {told[0]}", told)


def _enqueue(broker: Broker, elements: Sequence[Element], target: _Target) -> list[BatchItem]:
    """Queue tasks that ask for no conditions."""
    now_ns = broker.now_ns()
    made = [target.task(element, new_task_id(), now_ns) for element in elements]
    tasks = [task for task in made if isinstance(task, NewTask)]
    outcomes = iter(broker.run(enqueue_many(tasks)))
    items = []
    for task in made:
        outcome = task if isinstance(task, RunqyError) else next(outcomes)
        if isinstance(outcome, RunqyError):
            items.append(BatchItem(error=outcome))
        else:
            items.append(BatchItem(task.id if isinstance(task, NewTask) else None))
    return items


def _create(
    broker: Broker,
    elements: Sequence[Element],
    target: _Target,
    maker: Maker,
    *,
    is_repetition: bool,
) -> Batch:
    """Create tasks under conditions, as the maker that the record of the idempotency key names if there is one."""
    parts = _parts(elements, target, maker)
    creations = _create_parts(broker, parts, maker, target.once)
    other = next((c.maker for c in creations if isinstance(c, Creation) and c.maker != maker), None)
    if other is not None:  # another process was quicker with the same request
        for part in parts:
            broker.run(forget_lookups(part.queue, [task.id for task in part.tasks]))
        return _create(broker, elements, target, other, is_repetition=True)
    items: list[BatchItem] = []
    for places, creation in zip(_shares(elements), creations, strict=True):
        if isinstance(creation, RunqyError):
            items += [BatchItem(error=creation)] * len(places)
        else:
            items += _items(elements, places, creation)
    return Batch(items, is_replayed=is_repetition)


def _create_parts(
    broker: Broker, parts: Sequence[Part], maker: Maker, once: Once | None
) -> list[Creation | RunqyError]:
    """Create parts, some of them in each round trip."""
    creations: list[Creation | RunqyError] = []
    for start in range(0, len(parts), CALLS_AT_ONCE):
        together = parts[start : start + CALLS_AT_ONCE]
        creations += broker.run_all([create(part, maker, once, is_cluster=broker.is_cluster) for part in together])
    return creations


def _parts(elements: Sequence[Element], target: _Target, maker: Maker) -> list[Part]:
    """Return the parts of a batch; each notes what was wrong with its elements when they were first looked at."""
    parts = []
    for number, places in enumerate(_shares(elements)):
        made = [target.task(elements[place], _task_id(maker, place), maker.now_ns) for place in places]
        parts.append(
            Part(
                queue=target.resolved.redis_queue,
                tasks=[task for task in made if isinstance(task, NewTask)],
                number=number,
                note=msgspec.json.encode([task.detail if isinstance(task, RunqyError) else None for task in made]),
            )
        )
    return parts


def _shares(elements: Sequence[Element]) -> Iterator[range]:
    """Deal the elements' places out to script calls, by nothing but what was sent: a repetition must deal the same."""
    start = size = 0
    for place, element in enumerate(elements):
        grows = len(element.payload) if isinstance(element, TaskOrder) else 0
        if place > start and (place - start == timing.BATCH_MAX_TASKS or size + grows > timing.BATCH_MAX_BYTES):
            yield range(start, place)
            start, size = place, 0
        size += grows
    yield range(start, len(elements))


def _items(elements: Sequence[Element], places: range, creation: Creation) -> Iterator[BatchItem]:
    """Tell what became of the elements of a part."""
    errors: list[str | None] = msgspec.json.decode(creation.note)
    outcomes = iter(creation.outcomes)
    for place, error in zip(places, errors, strict=True):
        if error is not None:
            yield BatchItem(error=RequestInvalid(error))
        else:
            yield _item(elements[place], _task_id(creation.maker, place), next(outcomes))


def _item(element: Element, task_id: str, outcome: Outcome) -> BatchItem:
    """Tell what became of an element that was to be created."""
    if isinstance(outcome, Created):
        return BatchItem(task_id)
    if not isinstance(outcome, LockHeld):
        return BatchItem(error=outcome)
    is_wanted = (
        isinstance(element, TaskOrder)
        and element.unique is not None
        and element.unique.on_conflict is OnConflict.RETURN
    )
    if is_wanted:
        return BatchItem(outcome.task_id, is_existing=True)
    return BatchItem(error=TaskNotUnique(f"The task {outcome.task_id} has this unique_key."))


def _task_id(maker: Maker, place: int) -> str:
    """Return the id of an element's task, the same for whoever goes on with the batch."""
    return str(uuid.uuid5(uuid.UUID(maker.token), str(place)))

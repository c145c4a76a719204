"""Puts many tasks on queues: one script call carries up to 500 of them, and so does one round trip."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from runqy.broker import keys, timing
from runqy.broker.links import Reply
from runqy.broker.operation import Operation, Request, ask_all, get_context
from runqy.broker.producing import NewTask, store
from runqy.broker.scripts import Command, command, script
from runqy.broker.states import TaskState
from runqy.errors import RunqyError, TaskAlreadyExists

Enqueued = TaskState | RunqyError


def enqueue_many(tasks: Sequence[NewTask]) -> Operation[list[Enqueued]]:
    """Queue tasks; at each one's place stands the state it starts in, or what went wrong with it.

    A round trip carries at most 500 tasks, so that an event loop serves others while a large batch is built. What
    travels together is sent once more when its replies were lost; that does no harm, as in `enqueue`.
    Raises BrokerUnavailable: any of the tasks may be queued.
    """
    context = yield from get_context()
    outcomes: list[Enqueued] = [TaskAlreadyExists()] * len(tasks)
    for together in _round_trips(_batches(tasks, context.now_ns)):
        requests = [
            _enqueue_batch([tasks[i] for i in places], context.now_ns, context.is_cluster) for places in together
        ]
        answers = yield from ask_all(requests)
        for places, answer in zip(together, answers, strict=True):
            for position, place in enumerate(places):
                outcomes[place] = answer if isinstance(answer, RunqyError) else answer[position]
    return outcomes


def _round_trips(batches: Iterable[list[int]]) -> Iterator[list[list[int]]]:
    """Group script calls into round trips of a bounded number of tasks."""
    together: list[list[int]] = []
    count = 0
    for places in batches:
        if together and count + len(places) > timing.BATCH_MAX_TASKS:
            yield together
            together, count = [], 0
        together.append(places)
        count += len(places)
    if together:
        yield together


def _batches(tasks: Sequence[NewTask], now_ns: int) -> Iterator[list[int]]:
    """Deal the tasks' positions out to script calls, each for one Redis queue and one first state."""
    open_batches: dict[tuple[str, TaskState], tuple[list[int], int]] = {}
    for place, task in enumerate(tasks):
        kind = task.queue, task.state_at(now_ns)
        places, size = open_batches.get(kind, ([], 0))
        if places and (len(places) == timing.BATCH_MAX_TASKS or size + len(task.payload) > timing.BATCH_MAX_BYTES):
            yield places
            places, size = [], 0
        places.append(place)
        open_batches[kind] = places, size + len(task.payload)
    for places, _ in open_batches.values():
        yield places


def _enqueue_batch(tasks: Sequence[NewTask], now_ns: int, is_cluster: bool) -> Request[list[Enqueued]]:
    """Return the request that stores tasks of one Redis queue and one first state, lookups first."""
    queue, state = tasks[0].queue, tasks[0].state_at(now_ns)
    known = command("SADD", keys.QUEUES, queue, key=keys.QUEUES)
    return Request(
        commands=(*look_ups(tasks, is_cluster), known, store(tasks, now_ns)),
        parse=partial(_outcomes, state),
        is_repeatable=True,
        is_bulky=True,
    )


def look_ups(tasks: Sequence[NewTask], is_cluster: bool) -> list[Command]:
    """Return the commands that note where the tasks are: one script for all; on many nodes, or for one, plain ones."""
    lookups = [keys.lookup(task.id) for task in tasks]
    queue = tasks[0].queue
    if is_cluster or len(lookups) == 1:
        return [command("HSET", lookup, "queue", queue, key=lookup) for lookup in lookups]
    return [script("look_up")(lookup=lookups, queue=queue)]


def _outcomes(state: TaskState, replies: Sequence[Reply]) -> list[Enqueued]:
    """Read what the script said about each task."""
    return [state if is_stored else TaskAlreadyExists() for is_stored in replies[-1]]

"""Puts many tasks on queues, up to 500 in one script call, also under unique keys and an idempotency key."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from runqy.broker import keys, timing
from runqy.broker.enqueue import (
    QUEUE_FULL_RETRY_S,
    RECORD_KEPT_S,
    Created,
    IdempotencyKey,
    LockHeld,
    NewTask,
    lock_s,
    queue_full,
    store,
)
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.memory import ask_all_to_add
from runqy.broker.message import encode
from runqy.broker.operation import Operation, Request, get_context
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.states import TaskState
from runqy.errors import IdempotencyKeyReused, QueueFull, RunqyError, TaskAlreadyExists

Enqueued = TaskState | RunqyError
ItemOutcome = Created | LockHeld | TaskAlreadyExists | QueueFull


@dataclass(frozen=True, slots=True)
class RequestToken:
    """The request that first used an idempotency key, and its time: its repetitions take them over."""

    token: str
    now_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """Tasks of one Redis queue that one script call creates, all or none."""

    queue: str
    tasks: Sequence[NewTask]
    number: int = 0
    """Of the parts that were made from one request."""
    note: bytes = b""
    """Kept with the record of an idempotency key, for the response to a repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueuedPart:
    """What a part led to; without note and outcomes if another request has the key, and has not come to it yet."""

    request_token: RequestToken
    note: bytes
    outcomes: list[ItemOutcome]


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
        replies = yield from ask_all_to_add(requests, queue=tasks[0].queue, memory=context.memory)
        for places, reply in zip(together, replies, strict=True):
            for position, place in enumerate(places):
                outcomes[place] = reply if isinstance(reply, RunqyError) else reply[position]
    return outcomes


def enqueue_unique_batch(
    part: BatchPart,
    request_token: RequestToken,
    idempotency_key: IdempotencyKey | None = None,
    *,
    is_cluster: bool = False,
) -> Request[EnqueuedPart]:
    """Queue the tasks of a part under their locks, lookups first. Raises IdempotencyKeyReused.

    Running the same request again after a lost reply does no harm.
    """
    known = command("SADD", keys.QUEUES, part.queue, key=keys.QUEUES)
    commands = (*index_tasks(part.tasks, is_cluster), known) if part.tasks else ()

    def parse(replies: Sequence[Reply]) -> EnqueuedPart:
        if not replies[-1]:
            raise IdempotencyKeyReused
        token, now_ns, note, outcomes = replies[-1]
        read = [_outcome(outcome) for outcome in outcomes]
        return EnqueuedPart(request_token=RequestToken(token.decode(), int(now_ns)), note=note, outcomes=read)

    call = script("create")(**_arguments(part, request_token, idempotency_key))
    return Request((*commands, call), parse, is_repeatable=True, is_bulky=True)


def find_enqueued_part(queue: str, idempotency_key: IdempotencyKey, number: int = 0) -> Request[EnqueuedPart | None]:
    """Return what a part led to that was queued under an idempotency key. Raises IdempotencyKeyReused."""
    record = QueueKeys(queue).created(idempotency_key.scope)

    def parse(replies: Sequence[Reply]) -> EnqueuedPart | None:
        fingerprint, token, now_ns, note, outcomes = replies[0]
        if fingerprint is None:
            return None
        if fingerprint.decode() != idempotency_key.fingerprint:
            raise IdempotencyKeyReused
        read = [_outcome(o.encode() if isinstance(o, str) else o) for o in json.loads(outcomes or b"{}")]
        return EnqueuedPart(request_token=RequestToken(token.decode(), int(now_ns)), note=note or b"", outcomes=read)

    fields = ("fingerprint", "maker", "now_ns", f"note:{number}", f"outcomes:{number}")
    return Request((command("HMGET", record, *fields, key=record),), parse, is_bulky=True)


def index_tasks(tasks: Sequence[NewTask], is_cluster: bool) -> list[Command]:
    """Return the commands that note where the tasks are: one script for all; on many nodes, or for one, plain ones."""
    lookups = [keys.lookup(task.id) for task in tasks]
    queue = tasks[0].queue
    if is_cluster or len(lookups) == 1:
        return [command("HSET", lookup, "queue", queue, key=lookup) for lookup in lookups]
    return [script("look_up")(lookup=lookups, queue=queue)]


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
    open_batches: dict[tuple[str, bool], list[int]] = {}
    sizes: dict[tuple[str, bool], int] = {}
    for place, task in enumerate(tasks):
        kind = task.queue, task.is_later(now_ns)
        size = sizes.get(kind, 0) + len(task.payload)
        places = open_batches.setdefault(kind, [])
        if places and (len(places) == timing.BATCH_MAX_TASKS or size > timing.BATCH_MAX_BYTES):
            yield places
            places, size = [], len(task.payload)
            open_batches[kind] = places
        places.append(place)
        sizes[kind] = size
    yield from open_batches.values()


def _enqueue_batch(tasks: Sequence[NewTask], now_ns: int, is_cluster: bool) -> Request[list[Enqueued]]:
    """Return the request that stores tasks of one Redis queue and one first state, lookups first."""
    queue, state = tasks[0].queue, tasks[0].state_at(now_ns)
    known = command("SADD", keys.QUEUES, queue, key=keys.QUEUES)
    return Request(
        commands=(*index_tasks(tasks, is_cluster), known, store(tasks, now_ns)),
        parse=partial(_outcomes, tasks, state),
        is_repeatable=True,
        is_bulky=True,
    )


def _outcomes(tasks: Sequence[NewTask], state: TaskState, replies: Sequence[Reply]) -> list[Enqueued]:
    """Read what the script said about each task."""
    if replies[-1].count(1) == len(tasks):
        return [state] * len(tasks)
    errors = {0: lambda _: TaskAlreadyExists(), -1: queue_full}
    return [state if outcome == 1 else errors[outcome](task) for task, outcome in zip(tasks, replies[-1], strict=True)]


def _arguments(
    part: BatchPart, request_token: RequestToken, idempotency_key: IdempotencyKey | None
) -> dict[str, Value | Sequence[Value]]:
    """Return what the script is told."""
    queue = QueueKeys(part.queue)
    places: list[Value] = []
    fives: list[Value] = []
    for task in part.tasks:
        key = queue.task(task.id)
        is_later = task.state_at(request_token.now_ns) is TaskState.SCHEDULED
        places += (key, task.lock or key)
        run_at = task.process_at_s if is_later and task.process_at_s is not None else ""
        fives += (task.id, encode(task.message()), task.ttl_archived_s, run_at, lock_s(task, request_token.now_ns))
    return {
        "pending": queue.pending,
        "idle": queue.idle,
        "scheduled": queue.scheduled,
        "retry": queue.retry,
        "record": queue.created(idempotency_key.scope) if idempotency_key else queue.pending,
        "tasks_and_locks": places,
        "queue": part.queue,
        "now_ns": request_token.now_ns,
        "now_ms": request_token.now_ns // 1_000_000,
        "fingerprint": idempotency_key.fingerprint if idempotency_key else "",
        "maker": request_token.token,
        "part": part.number,
        "note": part.note,
        "keep_s": RECORD_KEPT_S,
        "task_prefix": queue.task_prefix,
        "max_waiting": part.tasks[0].max_waiting if part.tasks else 0,
        "fives": fives,
    }


def _outcome(outcome: int | bytes) -> ItemOutcome:
    """Read what became of one task."""
    if outcome == -1:
        return QueueFull(retry_after_s=QUEUE_FULL_RETRY_S)
    if isinstance(outcome, bytes):
        return LockHeld(outcome.decode(errors="replace"))
    return Created.NOW if outcome else TaskAlreadyExists()

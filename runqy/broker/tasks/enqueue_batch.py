"""Enqueue batches, up to 500 tasks in one script call, also with unique keys and an idempotency key."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from msgspec import DecodeError

from runqy.broker import constants, keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.memory import send_all_with_memory_check
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import (
    IDEMPOTENCY_TTL_S,
    MAX_ENDS,
    IdempotencyKey,
    LockConflict,
    NewTask,
    TaskCreated,
    add_queue,
    encode_notify,
    ends_full,
    is_recorded,
    lock_s,
    queue_full,
)
from runqy.core.formats.json_decoding import read_json
from runqy.errors import (
    EndsFull,
    IdempotencyKeyReused,
    IdempotencyRecordUnreadable,
    QueueFull,
    RunqyError,
    TaskAlreadyExists,
)

Enqueued = TaskState | RunqyError
ItemOutcome = TaskCreated | LockConflict | TaskAlreadyExists | QueueFull


@dataclass(frozen=True, slots=True)
class RequestToken:
    """Identifies the request that first used an idempotency key. Repetitions take over its token and its time."""

    token: str
    now_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """Tasks of one Redis queue that one script call creates."""

    queue: str
    tasks: Sequence[NewTask]
    number: int = 0
    """The index of this part in its request."""
    response: bytes = b""
    """Stored with the idempotency key, for the response to a repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueuedPart:
    """The outcome of a part.

    Note and outcomes are empty if another request has the idempotency key and has not stored this part yet.
    """

    request_token: RequestToken
    response: bytes
    outcomes: list[ItemOutcome]


async def enqueue_many(broker: AnyBroker, tasks: Sequence[NewTask]) -> list[Enqueued]:
    """Enqueue tasks; return for each its initial state or its error, in order.

    Each round trip carries at most 500 tasks, so that an event loop can serve other callers while a large batch is
    built. If its replies are lost, it is repeated, as in `enqueue`. Raise BrokerUnavailable: any of the tasks may have
    been enqueued.
    """
    now_ns = broker.now_ns()
    outcomes: list[Enqueued] = [TaskAlreadyExists()] * len(tasks)
    for batches in _round_trips(_batches(tasks, now_ns)):
        requests = [_enqueue_batch([tasks[i] for i in indexes], now_ns, broker.is_cluster) for indexes in batches]
        replies = await send_all_with_memory_check(
            broker,
            requests,
            queue=tasks[0].queue,
            size_bytes=sum(len(tasks[i].payload) for indexes in batches for i in indexes),
        )
        for indexes, reply in zip(batches, replies, strict=True):
            for position, index in enumerate(indexes):
                outcomes[index] = reply if isinstance(reply, RunqyError) else reply[position]
    return outcomes


def enqueue_unique_batch(
    part: BatchPart,
    request_token: RequestToken,
    idempotency_key: IdempotencyKey | None = None,
    *,
    is_cluster: bool = False,
) -> Request[EnqueuedPart]:
    """Enqueue the tasks of a part under their locks. Repeatable.

    Raise IdempotencyKeyReused, IdempotencyRecordUnreadable.
    """
    # Index entries first: one without a task is removed later, a task without one would not be found by its id.
    commands = (*index_tasks(part.tasks, is_cluster), add_queue(part.queue)) if part.tasks else ()

    def parse(replies: Sequence[Reply]) -> EnqueuedPart:
        if replies[-1] == 0:
            raise IdempotencyKeyReused
        if replies[-1] == -4:
            raise IdempotencyRecordUnreadable
        token, now_ns, response, outcomes = replies[-1]
        return _read_part(token, now_ns, response, outcomes)

    call = script("enqueue_unique_batch")(**_arguments(part, request_token, idempotency_key))
    return Request((*commands, call), parse, is_repeatable=True, is_bulky=True, is_decided_by_last=True)


def find_enqueued_part(queue: str, idempotency_key: IdempotencyKey, number: int = 0) -> Request[EnqueuedPart | None]:
    """Return the outcome of a part that was enqueued under an idempotency key; None if there is no record of it.

    Raise IdempotencyKeyReused, IdempotencyRecordUnreadable.
    """
    record = QueueKeys.of(queue).created(idempotency_key.scope)

    def parse(replies: Sequence[Reply]) -> EnqueuedPart | None:
        if not is_recorded(replies[0], idempotency_key):
            return None
        _, token, now_ns, response, outcomes = replies[0]
        try:
            stored = read_json(
                b"[]" if outcomes in (None, b"{}") else outcomes, list[int | str]
            )  # cjson writes an empty Lua table as {}
        except (DecodeError, ValueError):
            raise IdempotencyRecordUnreadable from None
        encoded = [outcome.encode() if isinstance(outcome, str) else outcome for outcome in stored]
        return _read_part(token, now_ns, response or b"", encoded)

    fields = ("fingerprint", "request_token", "now_ns", f"response:{number}", f"outcomes:{number}")
    read = command("HMGET", record, *fields, key=record)
    return Request((read,), parse, is_bulky=True, tolerates_wrong_types=True)


def delete_idempotency_record(
    queue: str, idempotency_key: IdempotencyKey, request_token: RequestToken
) -> Request[bool]:
    """Delete the record of a request, unless a task of it was stored; return whether it was deleted."""
    record = QueueKeys.of(queue).created(idempotency_key.scope)
    call = script("delete_idempotency_record")(record=record, request_token=request_token.token)
    return Request((call,), parse=lambda replies: replies[0] == 1, is_repeatable=True)


def _read_part(token: bytes, now_ns: bytes | None, response: bytes, outcomes: Sequence[int | bytes]) -> EnqueuedPart:
    """Return a part from the values of its record. Raise IdempotencyRecordUnreadable."""
    try:
        request_token = RequestToken(token.decode(), int(now_ns or b""))
    except ValueError:
        raise IdempotencyRecordUnreadable from None
    if not 0 <= request_token.now_ns < 1 << 63 or not all(isinstance(outcome, int | bytes) for outcome in outcomes):
        raise IdempotencyRecordUnreadable
    return EnqueuedPart(request_token=request_token, response=response, outcomes=[_parse_item(o) for o in outcomes])


def index_tasks(tasks: Sequence[NewTask], is_cluster: bool) -> list[Command]:
    """Return the commands that write index entries: one script call, or in a cluster a command per task."""
    lookups = [keys.lookup(task.id) for task in tasks]
    queue = tasks[0].queue
    if is_cluster or len(lookups) == 1:
        return [command("HSET", lookup, "queue", queue, key=lookup) for lookup in lookups]
    return [script("index_tasks")(lookup=lookups, queue=queue)]


def _round_trips(batches: Iterable[list[int]]) -> Iterator[list[list[int]]]:
    """Group script calls into round trips of at most BATCH_MAX_TASKS tasks."""
    group: list[list[int]] = []
    count = 0
    for indexes in batches:
        if group and count + len(indexes) > constants.BATCH_MAX_TASKS:
            yield group
            group, count = [], 0
        group.append(indexes)
        count += len(indexes)
    if group:
        yield group


def _batches(tasks: Sequence[NewTask], now_ns: int) -> Iterator[list[int]]:
    """Group the indexes of tasks into script calls, each for one Redis queue and one initial state."""
    kinds: dict[tuple[str, bool], list[int]] = {}
    for index, task in enumerate(tasks):
        kinds.setdefault((task.queue, task.is_later(now_ns)), []).append(index)
    for indexes in kinds.values():
        start = size = 0
        for end, index in enumerate(indexes):
            size += len(tasks[index].payload)
            if end > start and (end - start == constants.BATCH_MAX_TASKS or size > constants.BATCH_MAX_BYTES):
                yield indexes[start:end]
                start, size = end, len(tasks[index].payload)
        yield indexes[start:]


def _enqueue_batch(tasks: Sequence[NewTask], now_ns: int, is_cluster: bool) -> Request[list[Enqueued]]:
    queue = tasks[0].queue
    if tasks[0].is_later(now_ns):
        part = BatchPart(queue=queue, tasks=tasks)
        request = enqueue_unique_batch(part, RequestToken("", now_ns), is_cluster=is_cluster)
        commands, parse = request.commands, partial(_scheduled, request, tasks)
    else:
        commands = (*index_tasks(tasks, is_cluster), add_queue(queue), _store_pending(tasks, now_ns))
        parse = partial(_outcomes, tasks)
    return Request(commands, parse, is_repeatable=True, is_bulky=True, is_decided_by_last=True)


def _store_pending(tasks: Sequence[NewTask], now_ns: int) -> Command:
    """Return the script call that stores tasks of one Redis queue that run immediately."""
    queue = QueueKeys.of(tasks[0].queue)
    return script("enqueue_batch")(
        pending=queue.pending,
        idle=queue.idle,
        scheduled=queue.scheduled,
        retry=queue.retry,
        task=[queue.task(task.id) for task in tasks],
        queue=queue.queue,
        now_ns=now_ns,
        now_ms=now_ns // 1_000_000,
        max_waiting=tasks[0].max_waiting,
        max_ends=MAX_ENDS,
        groups=_group_by_limits(tasks),
    )


def _group_by_limits(tasks: Sequence[NewTask]) -> list[Value]:
    """Return the script's groups: the number of tasks, the limits and `notify` that consecutive tasks share, then their
    ids and messages.
    """
    values: list[Value] = []
    messages = _encode_messages(tasks)
    for shared, group in groupby(tasks, key=_stored_beside):
        ids_and_messages = [value for task in group for value in (task.id, next(messages))]
        values += (len(ids_and_messages) // 2, *shared, *ids_and_messages)
    return values


def _limits(task: NewTask) -> tuple[int, int, int]:
    """Return the limits that are stored beside the message: Go's workers drop them from it when they retry a task."""
    return task.ttl_archived_s, task.retention_s, task.timeout_s


def _stored_beside(task: NewTask) -> tuple[int, int, int, bytes]:
    return *_limits(task), encode_notify(task)


def _encode_messages(tasks: Sequence[NewTask]) -> Iterator[bytes]:
    """Yield the encoded messages of tasks of one Redis queue.

    Two concatenated protobuf messages are one message with the fields of both, so the fields that consecutive tasks
    share are encoded once.
    """
    previous, shared = None, b""
    for task in tasks:
        if previous is None or not task.has_same_fields(previous):
            previous, shared = task, task.shared_fields().SerializeToString()
        own = TaskMessage(id=task.id, payload=task.payload, unique_key=task.lock)
        yield shared + own.SerializeToString()


def _outcomes(tasks: Sequence[NewTask], replies: Sequence[Reply]) -> list[Enqueued]:
    if replies[-1].count(1) == len(tasks):
        return [TaskState.PENDING] * len(tasks)
    return [_outcome(task, _parse_item(code), TaskState.PENDING) for task, code in zip(tasks, replies[-1], strict=True)]


def _scheduled(request: Request[EnqueuedPart], tasks: Sequence[NewTask], replies: Sequence[Reply]) -> list[Enqueued]:
    outcomes = request.parse(replies).outcomes
    return [_outcome(task, outcome, TaskState.SCHEDULED) for task, outcome in zip(tasks, outcomes, strict=True)]


def _outcome(task: NewTask, outcome: ItemOutcome, state: TaskState) -> Enqueued:
    if isinstance(outcome, QueueFull):
        return ends_full(task.queue) if isinstance(outcome, EndsFull) else queue_full(task)
    return outcome if isinstance(outcome, TaskAlreadyExists) else state


def _arguments(
    part: BatchPart, request_token: RequestToken, idempotency_key: IdempotencyKey | None
) -> dict[str, Value | Sequence[Value]]:
    queue = QueueKeys.of(part.queue)
    tasks_and_locks: list[Value] = []
    eights: list[Value] = []
    for task, message in zip(part.tasks, _encode_messages(part.tasks), strict=True):
        key = queue.task(task.id)
        tasks_and_locks += (key, task.lock or key)
        run_at = task.process_at_s if task.is_later(request_token.now_ns) else ""
        held_s = lock_s(task, request_token.now_ns)
        eights += (task.id, message, *_limits(task), run_at, held_s, encode_notify(task))
    return {
        "pending": queue.pending,
        "idle": queue.idle,
        "scheduled": queue.scheduled,
        "retry": queue.retry,
        # A script declares a fixed number of keys: the pending list stands for a missing record, a task's key for its
        # lock.
        "record": queue.created(idempotency_key.scope) if idempotency_key else queue.pending,
        "tasks_and_locks": tasks_and_locks,
        "queue": part.queue,
        "now_ns": request_token.now_ns,
        "now_ms": request_token.now_ns // 1_000_000,
        "fingerprint": idempotency_key.fingerprint if idempotency_key else "",
        "request_token": request_token.token,
        "part": part.number,
        "response": part.response,
        "keep_s": IDEMPOTENCY_TTL_S,
        "task_prefix": queue.task_prefix,
        "max_waiting": part.tasks[0].max_waiting if part.tasks else 0,
        "max_ends": MAX_ENDS,
        "eights": eights,
    }


def _parse_item(outcome: int | bytes) -> ItemOutcome:
    if outcome == -1:
        return QueueFull(retry_after_s=constants.QUEUE_FULL_RETRY_S)
    if outcome == -5:
        return EndsFull(retry_after_s=constants.QUEUE_FULL_RETRY_S)
    if isinstance(outcome, bytes):
        return LockConflict(outcome.decode(errors="replace"))
    return TaskCreated.NOW if outcome else TaskAlreadyExists()

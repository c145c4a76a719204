"""Enqueue single tasks, also with a unique key or an idempotency key."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any

import msgspec

from runqy.broker import keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.constants import QUEUE_FULL_RETRY_S
from runqy.broker.keys import QueueKeys
from runqy.broker.message import DEFAULT_TIMEOUT_S, MAX_INT32
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.states import TaskState
from runqy.broker.streams.ends import Notify
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import EndsFull, IdempotencyKeyReused, IdempotencyRecordUnreadable, QueueFull, TaskAlreadyExists

IDEMPOTENCY_TTL_S = 24 * 3600
MAX_ENDS = 1_000_000
"""At so many entries in the stream of a Redis queue's ends no task is enqueued on it that tells its end."""
MAX_DRAWS = 32
"""How many ids are drawn for a task at most. With three masters, one in 600,000 tasks needs more."""
OF_QUEUE = -1
"""Stands for the limit of the task's queue, until `tasks.operations` sets it."""
_LIMITS_OF_QUEUE = {"timeout_s": OF_QUEUE, "max_retry": OF_QUEUE, "retention_s": OF_QUEUE}

# Checked where a worker may have written the values: in the records of idempotency keys.
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""At most the end of the year 9999."""


class NewTask(msgspec.Struct, frozen=True, kw_only=True, dict=True, array_like=True):
    """The definition of a task, from the request to Redis."""

    # Records of idempotency keys have the fields in this order for a day: new ones are appended, with a default.

    id: str = ""
    queue: str
    """The Redis queue; in a request, any of its names."""
    payload: bytes
    """JSON on one line."""
    timeout_s: _Seconds = DEFAULT_TIMEOUT_S
    """The time limit of one run. 0 with a deadline: only the deadline applies."""
    deadline_s: _Seconds = 0
    """Unix s after which the task must not run; 0: no deadline."""
    max_retry: Annotated[int, msgspec.Meta(ge=0, le=MAX_INT32)] = 3
    retention_s: _Seconds = 86_400
    """How long it is kept after success. 0: it is deleted immediately."""
    ttl_archived_s: _Seconds = 259_200
    process_at_us: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799 * 10**6)] = 0
    """Unix us at which it becomes pending: ns of the year 9999 exceed 64 bits. Not in the future: immediately."""
    delay_ns: int = 0
    """In a request instead of `process_at_us`: the time from now."""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    unique_key: str = ""
    """While a task holds its key, no other task of the queue may have the same one. Empty: no key."""
    unique_for_s: int = 0
    """How long the key is held after the task becomes pending, at most until it ends. 0: until it ends."""
    returns_existing: bool = False
    """If another task holds the key, that task is the response, not an error."""
    max_waiting: int = 0
    """Maximum number of pending, scheduled and retry tasks of the Redis queue; 0: unlimited."""
    notify: Notify | None = None
    """Who is told when it ends; None: nobody."""

    @classmethod
    def requested(cls, *, queue: str, payload: bytes, **options: Any) -> "NewTask":
        """Return a task as a client requests it: its queue decides the limits that are not among the options."""
        return cls(queue=queue, payload=payload, **_LIMITS_OF_QUEUE | options)

    def message(self) -> TaskMessage:
        """Return the task's message. It is built once, and must not be changed."""
        # Not a cached_property: before Python 3.12 one lock of it serves all instances.
        known: TaskMessage | None = self.__dict__.get("_message")
        if known is None:
            known = self.__dict__["_message"] = self._build()
        return known

    def _build(self) -> TaskMessage:
        message = self.shared_fields()
        message.id, message.payload, message.unique_key = self.id, self.payload, self.lock
        return message

    def shared_fields(self) -> TaskMessage:
        """Return the message without id, payload and lock, which no two tasks share."""
        # `has_same_fields` compares each field that is used here.
        message = TaskMessage(
            type=self.queue,
            queue=self.queue,
            retry=max(self.max_retry, 0),
            timeout=self.timeout_s if self.timeout_s or self.deadline_s else DEFAULT_TIMEOUT_S,
            deadline=self.deadline_s,
            retention=self.retention_s,
        )
        for name, value in self.headers.items():
            message.headers[name] = value
        return message

    def as_record(self, now_ns: int) -> TaskRecord:
        """Return the record of the task, enqueued at this time, as it would be read back."""
        return TaskRecord(
            id=self.id,
            queue=self.queue,
            state=self.state_at(now_ns),
            message=self.message(),
            score_s=self.process_at_s or None,
            enqueued_at_ns=now_ns,
            ttl_archived_s=self.ttl_archived_s,
        )

    def has_same_fields(self, other: "NewTask") -> bool:
        """Return whether another task of the same queue has the same shared fields."""
        return (
            self.headers is other.headers
            and self.timeout_s == other.timeout_s
            and self.deadline_s == other.deadline_s
            and self.max_retry == other.max_retry
            and self.retention_s == other.retention_s
        )

    @property
    def lock(self) -> str:
        """The key of the task's lock; empty if it has none."""
        return QueueKeys.of(self.queue).lock(self.unique_key) if self.unique_key else ""

    def state_at(self, now_ns: int) -> TaskState:
        return TaskState.SCHEDULED if self.is_later(now_ns) else TaskState.PENDING

    def is_later(self, now_ns: int) -> bool:
        return self.process_at_us * 1000 > now_ns

    @property
    def process_at_s(self) -> int:
        """Unix s at which it becomes pending, rounded up so that it never runs early."""
        return -(-self.process_at_us // 1_000_000)


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True):
    """An idempotency key and the request it was first used for."""

    scope: str
    """Digest of the key and the client."""
    fingerprint: str
    """Digest of the request. A different request with the same key is an error."""


@dataclass(frozen=True, slots=True)
class LockConflict:
    """Another task has the lock."""

    task_id: str


class TaskCreated(Enum):
    """The task was created."""

    NOW = 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of an earlier request with the same idempotency key."""

    response: bytes
    """What that request stored for responses to its repetitions."""
    holder: str
    """The id of the task that had the lock then; empty if the request created its task."""


class EnqueuedTooLate(Enum):
    """Redis received a task after `until_s`, and did not store it."""

    BY_REDIS = 1


UniqueOutcome = TaskCreated | LockConflict | Replayed | EnqueuedTooLate


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """An idempotency key and what is stored with it."""

    key: IdempotencyKey
    response: bytes
    """For the response to a repetition. Never empty, and unique: it identifies a request that is sent again."""
    keeps_conflict: bool = False
    """Keep the record if another task has the lock. Otherwise a repetition tries again."""


def draw_task_ids(broker: AnyBroker, queue: str, count: int = 1) -> list[str]:
    """Return ids for tasks of a Redis queue.

    In a cluster the master of the queue has their index entries too, as far as a few draws find such ids: both are
    written to one server then, and a task without an index entry, which would not be found by its id, cannot be left
    when another one is away.
    """
    ids = new_task_ids(count)
    home = broker.node_of(QueueKeys.of(queue).pending) if broker.is_cluster else ""
    if home:
        for index in range(count):
            drawn = 0
            while broker.node_of(keys.lookup(ids[index])) != home and drawn < MAX_DRAWS:
                ids[index] = new_task_id()
                drawn += 1
    return ids


def new_task_id() -> str:
    return new_task_ids(1)[0]


def new_task_ids(count: int) -> list[str]:
    """Return random UUIDs of version 4. One system call reads the random bytes for all of them."""
    digits = os.urandom(16 * count).hex()
    return [_format_uuid(digits[start : start + 32]) for start in range(0, len(digits), 32)]


def _format_uuid(digits: str) -> str:
    """Format 32 hexadecimal digits as a UUID. Version 4 fixes one digit, and two bits of another."""
    variant = _VARIANTS[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


def enqueue(task: NewTask, *, now_ns: int, is_cluster: bool = True) -> Request[TaskState]:
    """Enqueue a task without a unique key, and return its initial state. Raise TaskAlreadyExists, QueueFull.

    Repeatable: a repetition recognises the task by its time. One command suffices for a task that runs immediately,
    unless Redis is a cluster.
    """
    state = task.state_at(now_ns)
    if state is TaskState.PENDING and not is_cluster:
        return Request((_enqueue_one(task, now_ns),), partial(_parse_state, task, state), is_repeatable=True)
    request = enqueue_unique(task, now_ns=now_ns, is_cluster=is_cluster)

    def parse(replies: Sequence[Reply]) -> TaskState:
        request.parse(replies)
        return state

    return Request(request.commands, parse, is_repeatable=True, is_decided_by_last=True)


def enqueue_unique(
    task: NewTask,
    *,
    now_ns: int,
    record: IdempotencyRecord | None = None,
    until_s: int | None = None,
    is_cluster: bool = True,
) -> Request[UniqueOutcome]:
    """Enqueue a task under its lock and idempotency key. Repeatable. Outside a cluster one command suffices.

    Raise TaskAlreadyExists, IdempotencyKeyReused, IdempotencyRecordUnreadable, QueueFull.
    """
    call = script("enqueue_unique")(**_arguments(task, now_ns, record, until_s, is_cluster))
    # The index entry first: an entry without a task is removed later, a task without one would not be found by its id.
    return Request(
        (*index_task(task), call) if is_cluster else (call,),
        partial(_parse_unique_outcome, task),
        is_repeatable=True,
        is_decided_by_last=True,
    )


def find_replayed(queue: str, idempotency_key: IdempotencyKey) -> Request[Replayed | None]:
    """Return the outcome of an earlier request with the same idempotency key.

    Raise IdempotencyKeyReused, IdempotencyRecordUnreadable.
    """
    record = QueueKeys.of(queue).created(idempotency_key.scope)

    def parse(replies: Sequence[Reply]) -> Replayed | None:
        if not is_recorded(replies[0], idempotency_key):
            return None
        _, response, holder = replies[0]
        return _replayed(response, holder or b"")

    read = command("HMGET", record, "fingerprint", "response", "holder", key=record)
    return Request((read,), parse, tolerates_wrong_types=True)


def is_recorded(fields: Sequence[bytes | None] | None, idempotency_key: IdempotencyKey) -> bool:
    """Return whether a record of this request exists.

    `fields` are those of the record: the fingerprint first, then its response or token; None if the key is of another
    type. Raise IdempotencyKeyReused, IdempotencyRecordUnreadable.
    """
    if fields is None:
        raise IdempotencyRecordUnreadable
    if fields[0] is not None and fields[0] != idempotency_key.fingerprint.encode():
        raise IdempotencyKeyReused
    if (fields[0] is None) != (fields[1] is None):
        raise IdempotencyRecordUnreadable
    return fields[0] is not None


def _replayed(response: bytes, holder: bytes) -> Replayed:
    try:
        return Replayed(response, holder.decode())
    except UnicodeDecodeError:
        raise IdempotencyRecordUnreadable from None


def expire_records(queue: str, scopes: Sequence[str], *, ttl_s: int) -> Request[None]:
    """Let the records of idempotency keys expire. After that the same request creates a task again."""
    records = [QueueKeys.of(queue).created(scope) for scope in scopes]
    return Request(tuple(command("EXPIRE", record, ttl_s, key=record) for record in records), lambda _: None)


def index_task(task: NewTask) -> tuple[Command, Command]:
    """Return the commands that write a task's index entry and add its queue to the set of queues."""
    lookup = keys.lookup(task.id)
    return command("HSET", lookup, "queue", task.queue, key=lookup), add_queue(task.queue)


def add_queue(queue: str) -> Command:
    """Return the command that adds a Redis queue to the set of queues, which the next task does again if it fails."""
    return Command(args=("SADD", keys.QUEUES, queue), key=keys.QUEUES, may_fail=True)


def claim_lookup(task: NewTask) -> Request[None]:
    """Write the lookup of a task whose id a client made, for clusters. Repeatable.

    Raise TaskAlreadyExists if the id belongs to a task of another queue.
    """
    lookup = keys.lookup(task.id)

    def parse(replies: Sequence[Reply]) -> None:
        if replies[-1] != task.queue.encode():
            raise TaskAlreadyExists

    write = command("HSETNX", lookup, "queue", task.queue, key=lookup)
    return Request((write, command("HGET", lookup, "queue", key=lookup)), parse, is_repeatable=True)


def queue_full(task: NewTask) -> QueueFull:
    detail = f"The queue {task.queue} has {task.max_waiting} waiting tasks, its limit (max_waiting_tasks)."
    return QueueFull(detail, retry_after_s=QUEUE_FULL_RETRY_S)


def ends_full(queue: str) -> EndsFull:
    detail = f"{MAX_ENDS:,} ends of tasks of the queue {queue} wait to be told to others. Is maintenance running?"
    return EndsFull(detail, retry_after_s=QUEUE_FULL_RETRY_S)


def encode_notify(task: NewTask) -> bytes:
    return task.notify.encode() if task.notify else b""


def lock_s(task: NewTask, now_ns: int) -> int:
    """Return how long in s the lock is held at most, including the time until the task is due; 0: until the task
    ends.
    """
    if not task.unique_for_s:
        return 0
    return task.unique_for_s + max(task.process_at_s - now_ns // 1_000_000_000, 0)


def _parse_state(task: NewTask, state: TaskState, replies: Sequence[Reply]) -> TaskState:
    if replies[-1] == -1:
        raise queue_full(task)
    if replies[-1] == -5:
        raise ends_full(task.queue)
    if replies[-1] != 1:
        raise TaskAlreadyExists
    return state


def _enqueue_one(task: NewTask, now_ns: int) -> Command:
    queue = QueueKeys.of(task.queue)
    return script("enqueue")(
        pending=queue.pending,
        idle=queue.idle,
        scheduled=queue.scheduled,
        retry=queue.retry,
        task=queue.task(task.id),
        lookup=keys.lookup(task.id),
        queues=keys.QUEUES,
        queue=task.queue,
        now_ns=now_ns,
        now_ms=now_ns // 1_000_000,
        max_waiting=task.max_waiting,
        id=task.id,
        message=task.message().SerializeToString(),
        ttl_archived=task.ttl_archived_s,
        ttl_completed=task.retention_s,
        active_timeout=task.timeout_s,
        notify=encode_notify(task),
        max_ends=MAX_ENDS,
    )


def _arguments(
    task: NewTask, now_ns: int, record: IdempotencyRecord | None, until_s: int | None, is_cluster: bool
) -> dict[str, Value | Sequence[Value]]:
    queue = QueueKeys.of(task.queue)
    key = queue.task(task.id)
    return {
        "pending": queue.pending,
        "idle": queue.idle,
        "scheduled": queue.scheduled,
        "retry": queue.retry,
        "task": key,
        # A script declares a fixed number of keys: that of the task stands for those it does not need.
        "lock": task.lock or key,
        "record": queue.created(record.key.scope) if record else key,
        "lookup": key if is_cluster else keys.lookup(task.id),
        "queues": key if is_cluster else keys.QUEUES,
        "queue": task.queue,
        "now_ns": now_ns,
        "id": task.id,
        "message": task.message().SerializeToString(),
        "ttl_archived": task.ttl_archived_s,
        "ttl_completed": task.retention_s,
        "active_timeout": task.timeout_s,
        "run_at": task.process_at_s if task.is_later(now_ns) else "",
        "lock_s": lock_s(task, now_ns),
        "fingerprint": record.key.fingerprint if record else "",
        "response": record.response if record else "",
        "keeps_conflict": int(record.keeps_conflict) if record else 0,
        "keep_s": IDEMPOTENCY_TTL_S,
        "max_waiting": task.max_waiting,
        "until_s": "" if until_s is None else until_s,
        "notify": encode_notify(task),
        "max_ends": MAX_ENDS,
    }


def _parse_unique_outcome(task: NewTask, replies: Sequence[Reply]) -> UniqueOutcome:
    reply = replies[-1]
    if reply == 1:
        return TaskCreated.NOW
    if reply == 0:
        raise TaskAlreadyExists
    if reply == -1:
        raise IdempotencyKeyReused
    if reply == -2:
        raise queue_full(task)
    if reply == -3:
        return EnqueuedTooLate.BY_REDIS
    if reply == -4:
        raise IdempotencyRecordUnreadable
    if reply == -5:
        raise ends_full(task.queue)
    holder, response = reply
    return _replayed(response, holder) if response else LockConflict(holder.decode(errors="replace"))

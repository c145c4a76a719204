"""Puts single tasks on queues, also under a unique key or an idempotency key at nearly the price of one without."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import msgspec

from runqy.broker import keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.message import DEFAULT_TIMEOUT_S, encode
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.states import TaskState
from runqy.errors import IdempotencyKeyReused, QueueFull, TaskAlreadyExists

RECORD_KEPT_S = 24 * 3600
QUEUE_FULL_RETRY_S = 5


class NewTask(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A task to be queued."""

    id: str
    queue: str
    """The Redis queue."""
    payload: bytes
    timeout_s: int = DEFAULT_TIMEOUT_S
    """How long one run may take; 0 with a deadline: only the deadline counts."""
    deadline_s: int = 0
    """Unix s after which it may not run; 0: none."""
    max_retry: int = 3
    retention_s: int = 86_400
    """How long it is kept after success; 0: deleted at once."""
    ttl_archived_s: int = 259_200
    process_at_s: int | None = None
    """Unix s at which it becomes pending; None or not in the future: at once."""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    unique_key: str = ""
    """What no other task of the queue may have at the same time. Empty: nothing."""
    unique_for_s: int = 0
    """For how long, from when the task becomes pending, and not beyond its end; 0: until its end, however late."""
    max_waiting: int = 0
    """How many tasks of the Redis queue may be pending, scheduled or to be retried with it; 0: any number."""

    def message(self) -> TaskMessage:
        """Return the task as a message, not to be changed: it is built once."""
        # Not a cached_property: before Python 3.12 all tasks share its lock.
        known: TaskMessage | None = self.__dict__.get("_message")
        if known is None:
            known = self.__dict__["_message"] = self._build()
        return known

    def _build(self) -> TaskMessage:
        timeout_s = self.timeout_s if self.timeout_s or self.deadline_s else DEFAULT_TIMEOUT_S
        return TaskMessage(
            type=self.queue,
            payload=self.payload,
            id=self.id,
            queue=self.queue,
            retry=max(self.max_retry, 0),
            timeout=timeout_s,
            deadline=self.deadline_s,
            retention=self.retention_s,
            headers=self.headers or None,
            unique_key=self.lock,
        )

    @property
    def lock(self) -> str:
        """Return the key of the lock to create it under; empty: none."""
        return QueueKeys(self.queue).lock(self.unique_key) if self.unique_key else ""

    def state_at(self, now_ns: int) -> TaskState:
        """Return the state in which it starts."""
        return TaskState.SCHEDULED if self.is_later(now_ns) else TaskState.PENDING

    def is_later(self, now_ns: int) -> bool:
        """Return whether it starts as scheduled."""
        return self.process_at_s is not None and self.process_at_s * 1_000_000_000 > now_ns


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True):
    """An idempotency key, and the request it was first used for."""

    scope: str
    """Digest of the key and of its sender."""
    fingerprint: str
    """Digest of the request; another one under the same key is an error."""


@dataclass(frozen=True, slots=True)
class LockHeld:
    """Another task has the lock."""

    task_id: str


class Created(Enum):
    """The task was created."""

    NOW = 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """The same request came before, under the same idempotency key."""

    note: bytes
    """What it stored for the response to a repetition."""
    holder: str
    """The task that had the lock then, and was returned; empty: the request created one."""


UniqueOutcome = Created | LockHeld | Replayed


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """An idempotency key, and what is kept with it."""

    key: IdempotencyKey
    note: bytes
    """For the response to a repetition. Not empty, and unique: a request that is sent again is recognised by it."""
    keeps_conflict: bool = False
    """Keep the record although another task has the lock; False: a repetition tries again."""


def new_task_id() -> str:
    """Return a random UUID."""
    return new_task_ids(1)[0]


def new_task_ids(count: int) -> list[str]:
    """Return random UUIDs of version 4; one system call fetches the random bytes of all."""
    digits = os.urandom(16 * count).hex()
    return [_format_uuid(digits[start : start + 32]) for start in range(0, len(digits), 32)]


def _format_uuid(digits: str) -> str:
    """Return 32 hexadecimal digits as a UUID of version 4, in which two digits are fixed in part."""
    variant = _VARIANTS[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


def enqueue(task: NewTask, *, now_ns: int, is_cluster: bool = True) -> Request[TaskState]:
    """Queue one task; the state it starts in is the outcome. Raises TaskAlreadyExists, QueueFull.

    Running the same request again after a lost reply does no harm: the task is known by its time. One command does it
    all where Redis is known to be no cluster and the task is to run at once.
    """
    state = task.state_at(now_ns)
    if state is TaskState.PENDING and not is_cluster:
        return Request((_enqueue_one(task, now_ns),), partial(_started, task, state), is_repeatable=True)
    return Request((*index_task(task), store([task], now_ns)), partial(_started, task, state), is_repeatable=True)


def enqueue_unique(
    task: NewTask, *, now_ns: int, record: IdempotencyRecord | None = None, is_cluster: bool = True
) -> Request[UniqueOutcome]:
    """Queue a task under its lock and idempotency key, lookup first.

    Raises TaskAlreadyExists, IdempotencyKeyReused, QueueFull. Running the same request again after a lost reply does no
    harm. One command does it all where Redis is known to be no cluster.
    """
    call = script("create_one")(**_arguments(task, now_ns, record, is_cluster))
    return Request((*index_task(task), call) if is_cluster else (call,), partial(_outcome, task), is_repeatable=True)


def find_replayed(queue: str, idempotency_key: IdempotencyKey) -> Request[Replayed | None]:
    """Return what an earlier request under the same idempotency key led to. Raises IdempotencyKeyReused."""
    record = QueueKeys(queue).created(idempotency_key.scope)

    def parse(replies: Sequence[Reply]) -> Replayed | None:
        fingerprint, note, holder = replies[0]
        if fingerprint is None:
            return None
        if fingerprint.decode() != idempotency_key.fingerprint:
            raise IdempotencyKeyReused
        return Replayed(note, (holder or b"").decode())

    return Request((command("HMGET", record, "fingerprint", "note", "holder", key=record),), parse)


def index_task(task: NewTask) -> tuple[Command, Command]:
    """Return the commands that write the lookup of a task, and the name of its queue to the set of all queues."""
    lookup = keys.lookup(task.id)
    known = command("SADD", keys.QUEUES, task.queue, key=keys.QUEUES)
    return command("HSET", lookup, "queue", task.queue, key=lookup), known


def store(tasks: Sequence[NewTask], now_ns: int) -> Command:
    """Return the script call that stores tasks of one Redis queue and one first state."""
    queue, max_waiting = QueueKeys(tasks[0].queue), tasks[0].max_waiting
    task_keys = [queue.task(task.id) for task in tasks]
    if tasks[0].state_at(now_ns) is TaskState.PENDING:
        rest: list[Value] = []
        for task in tasks:
            rest += (task.id, encode(task.message()), task.ttl_archived_s)
        return script("enqueue")(
            pending=queue.pending,
            idle=queue.idle,
            scheduled=queue.scheduled,
            retry=queue.retry,
            task=task_keys,
            queue=queue.queue,
            now_ns=now_ns,
            now_ms=now_ns // 1_000_000,
            max_waiting=max_waiting,
            id_message_ttl=rest,
        )
    rest = []
    for task in tasks:
        rest += (task.id, encode(task.message()), task.ttl_archived_s, task.process_at_s or 0)
    return script("schedule")(
        scheduled=queue.scheduled,
        pending=queue.pending,
        retry=queue.retry,
        task=task_keys,
        now_ns=now_ns,
        max_waiting=max_waiting,
        id_message_ttl_runat=rest,
    )


def queue_full(task: NewTask) -> QueueFull:
    """Return the error of a task whose queue has no room for it."""
    detail = f"The queue {task.queue} has {task.max_waiting} waiting tasks, as many as it may (max_waiting_tasks)."
    return QueueFull(detail, retry_after_s=QUEUE_FULL_RETRY_S)


def lock_s(task: NewTask, now_ns: int) -> int:
    """Return for how long a lock is held at most; it covers the time before the task's turn too (contract 3.4)."""
    if not task.unique_for_s:
        return 0
    return task.unique_for_s + max((task.process_at_s or 0) - now_ns // 1_000_000_000, 0)


def _started(task: NewTask, state: TaskState, replies: Sequence[Reply]) -> TaskState:
    """Return the state of a task that was stored."""
    if replies[-1] in (-1, [-1]):
        raise queue_full(task)
    if replies[-1] not in (1, [1]):
        raise TaskAlreadyExists
    return state


def _enqueue_one(task: NewTask, now_ns: int) -> Command:
    """Return the script call that does all that queueing a task takes."""
    queue = QueueKeys(task.queue)
    return script("enqueue_one")(
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
        message=encode(task.message()),
        ttl_archived=task.ttl_archived_s,
    )


def _arguments(
    task: NewTask, now_ns: int, record: IdempotencyRecord | None, is_cluster: bool
) -> dict[str, Value | Sequence[Value]]:
    """Return what the script is told."""
    queue = QueueKeys(task.queue)
    key = queue.task(task.id)
    return {
        "pending": queue.pending,
        "idle": queue.idle,
        "scheduled": queue.scheduled,
        "retry": queue.retry,
        "task": key,
        "lock": task.lock or key,
        "record": queue.created(record.key.scope) if record else key,
        "lookup": key if is_cluster else keys.lookup(task.id),
        "queues": key if is_cluster else keys.QUEUES,
        "queue": task.queue,
        "now_ns": now_ns,
        "id": task.id,
        "message": encode(task.message()),
        "ttl_archived": task.ttl_archived_s,
        "run_at": task.process_at_s if task.process_at_s is not None and task.is_later(now_ns) else "",
        "lock_s": lock_s(task, now_ns),
        "fingerprint": record.key.fingerprint if record else "",
        "note": record.note if record else "",
        "keeps_conflict": int(record.keeps_conflict) if record else 0,
        "keep_s": RECORD_KEPT_S,
        "max_waiting": task.max_waiting,
    }


def _outcome(task: NewTask, replies: Sequence[Reply]) -> UniqueOutcome:
    """Read what the script said."""
    reply = replies[-1]
    if reply == 1:
        return Created.NOW
    if reply == 0:
        raise TaskAlreadyExists
    if reply == -1:
        raise IdempotencyKeyReused
    if reply == -2:
        raise queue_full(task)
    holder, note = reply
    return Replayed(note, holder.decode()) if note else LockHeld(holder.decode(errors="replace"))

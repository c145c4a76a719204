"""Creates tasks of batches under conditions: while no other task has the same lock, and once for an idempotency key."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from runqy.broker import keys
from runqy.broker.batching import look_ups
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.message import encode
from runqy.broker.operation import Request
from runqy.broker.producing import NewTask
from runqy.broker.scripts import Value, command, script
from runqy.broker.states import TaskState
from runqy.errors import IdempotencyKeyReused, TaskAlreadyExists

RECORD_KEPT_S = 24 * 3600


class Once(msgspec.Struct, frozen=True, kw_only=True):
    """An idempotency key, and what it was first used for."""

    scope: str
    """Digest of the key and of who sent it."""
    fingerprint: str
    """Digest of the request; another one under the same key is an error."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Who creates tasks, and when: a repetition by the same maker is known for one."""

    token: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class LockHeld:
    """Another task has the lock."""

    task_id: str


class Created(Enum):
    """The task was created."""

    NOW = 1


Outcome = Created | LockHeld | TaskAlreadyExists


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Tasks of one Redis queue that one script call creates, all or none."""

    queue: str
    tasks: Sequence[NewTask]
    number: int = 0
    """Of the parts that were made from one request."""
    note: bytes = b""
    """Kept with the record of an idempotency key, for whoever answers the same request again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What became of a part; with no note and no outcomes if it is another maker's, who did not come to it yet."""

    maker: Maker
    note: bytes
    outcomes: list[Outcome]


def create(part: Part, maker: Maker, once: Once | None = None, *, is_cluster: bool = False) -> Request[Creation]:
    """Create the tasks of a part, lookups first. Raises IdempotencyKeyReused.

    Running the same request again after a lost reply does no harm.
    """
    known = command("SADD", keys.QUEUES, part.queue, key=keys.QUEUES)
    commands = (*look_ups(part.tasks, is_cluster), known) if part.tasks else ()

    def parse(replies: Sequence[Reply]) -> Creation:
        if not replies[-1]:
            raise IdempotencyKeyReused
        token, now_ns, note, outcomes = replies[-1]
        read = [_outcome(outcome) for outcome in outcomes]
        return Creation(maker=Maker(token.decode(), int(now_ns)), note=note, outcomes=read)

    return Request(
        (*commands, script("create")(**_arguments(part, maker, once))), parse, is_repeatable=True, is_bulky=True
    )


def find_creation(queue: str, once: Once, number: int = 0) -> Request[Creation | None]:
    """Ask who used an idempotency key first, and what became of a part. Raises IdempotencyKeyReused."""
    record = QueueKeys(queue).created(once.scope)

    def parse(replies: Sequence[Reply]) -> Creation | None:
        fingerprint, token, now_ns, note, outcomes = replies[0]
        if fingerprint is None:
            return None
        if fingerprint.decode() != once.fingerprint:
            raise IdempotencyKeyReused
        read = [_outcome(o.encode() if isinstance(o, str) else o) for o in json.loads(outcomes or b"{}")]
        return Creation(maker=Maker(token.decode(), int(now_ns)), note=note or b"", outcomes=read)

    fields = ("fingerprint", "maker", "now_ns", f"note:{number}", f"outcomes:{number}")
    return Request((command("HMGET", record, *fields, key=record),), parse, is_bulky=True)


def _arguments(part: Part, maker: Maker, once: Once | None) -> dict[str, Value | Sequence[Value]]:
    """Return what the script is told."""
    queue = QueueKeys(part.queue)
    places: list[Value] = []
    fives: list[Value] = []
    for task in part.tasks:
        key = queue.task(task.id)
        is_later = task.state_at(maker.now_ns) is TaskState.SCHEDULED
        places += (key, task.lock or key)
        run_at = task.process_at_s if is_later and task.process_at_s is not None else ""
        fives += (task.id, encode(task.message()), task.ttl_archived_s, run_at, lock_s(task, maker.now_ns))
    return {
        "pending": queue.pending,
        "idle": queue.idle,
        "scheduled": queue.scheduled,
        "record": queue.created(once.scope) if once else queue.pending,
        "tasks_and_locks": places,
        "queue": part.queue,
        "now_ns": maker.now_ns,
        "now_ms": maker.now_ns // 1_000_000,
        "fingerprint": once.fingerprint if once else "",
        "maker": maker.token,
        "part": part.number,
        "note": part.note,
        "keep_s": RECORD_KEPT_S,
        "task_prefix": queue.task_prefix,
        "fives": fives,
    }


def lock_s(task: NewTask, now_ns: int) -> int:
    """Return for how long a lock is held at most; it covers the time before the task's turn too (contract 3.4)."""
    if not task.unique_for_s:
        return 0
    return task.unique_for_s + max((task.process_at_s or 0) - now_ns // 1_000_000_000, 0)


def _outcome(outcome: int | bytes) -> Outcome:
    """Read what became of one task."""
    if isinstance(outcome, bytes):
        return LockHeld(outcome.decode(errors="replace"))
    return Created.NOW if outcome else TaskAlreadyExists()

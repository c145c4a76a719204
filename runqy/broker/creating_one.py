"""Creates a single task under conditions, at nearly the price of one without: its lock, and its idempotency key."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from runqy.broker import keys
from runqy.broker.creating import RECORD_KEPT_S, Created, LockHeld, Once, lock_s
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.message import encode
from runqy.broker.operation import Request
from runqy.broker.producing import NewTask, note_place
from runqy.broker.scripts import Value, command, script
from runqy.errors import IdempotencyKeyReused, TaskAlreadyExists


@dataclass(frozen=True, slots=True)
class Earlier:
    """The same request came before, under the same idempotency key."""

    note: bytes
    """What it kept for its answer."""
    holder: str
    """The task that had the lock then, and was answered with; empty: the request made one."""


OneOutcome = Created | LockHeld | Earlier


class Recorded(msgspec.Struct, frozen=True):
    """An idempotency key, and what is kept with it."""

    once: Once
    note: bytes
    """For whoever answers the same request again. Not empty, and nobody else's: its maker is known by it."""
    keeps_conflict: bool = False
    """Keep it although another task has the lock; False: a repetition tries again."""


def create_one(
    task: NewTask, *, now_ns: int, recorded: Recorded | None = None, is_cluster: bool = True
) -> Request[OneOutcome]:
    """Create a task, lookup first. Raises TaskAlreadyExists, IdempotencyKeyReused.

    Running the same request again after a lost reply does no harm. One command does it all where Redis is known to be
    no cluster.
    """
    call = script("create_one")(**_arguments(task, now_ns, recorded, is_cluster))
    return Request((*note_place(task), call) if is_cluster else (call,), _outcome, is_repeatable=True)


def find_earlier(queue: str, once: Once) -> Request[Earlier | None]:
    """Ask what a request led to that came before under the same idempotency key. Raises IdempotencyKeyReused."""
    record = QueueKeys(queue).created(once.scope)

    def parse(replies: Sequence[Reply]) -> Earlier | None:
        fingerprint, note, holder = replies[0]
        if fingerprint is None:
            return None
        if fingerprint.decode() != once.fingerprint:
            raise IdempotencyKeyReused
        return Earlier(note, (holder or b"").decode())

    return Request((command("HMGET", record, "fingerprint", "note", "holder", key=record),), parse)


def _arguments(
    task: NewTask, now_ns: int, recorded: Recorded | None, is_cluster: bool
) -> dict[str, Value | Sequence[Value]]:
    """Return what the script is told."""
    queue = QueueKeys(task.queue)
    key = queue.task(task.id)
    is_later = task.process_at_s is not None and task.process_at_s * 1_000_000_000 > now_ns
    return {
        "pending": queue.pending,
        "idle": queue.idle,
        "scheduled": queue.scheduled,
        "task": key,
        "lock": task.lock or key,
        "record": queue.created(recorded.once.scope) if recorded else key,
        "lookup": key if is_cluster else keys.lookup(task.id),
        "queues": key if is_cluster else keys.QUEUES,
        "queue": task.queue,
        "now_ns": now_ns,
        "id": task.id,
        "message": encode(task.message()),
        "ttl_archived": task.ttl_archived_s,
        "run_at": task.process_at_s if is_later and task.process_at_s is not None else "",
        "lock_s": lock_s(task, now_ns),
        "fingerprint": recorded.once.fingerprint if recorded else "",
        "note": recorded.note if recorded else "",
        "keeps_conflict": int(recorded.keeps_conflict) if recorded else 0,
        "keep_s": RECORD_KEPT_S,
    }


def _outcome(replies: Sequence[Reply]) -> OneOutcome:
    """Read what the script said."""
    reply = replies[-1]
    if reply == 1:
        return Created.NOW
    if reply == 0:
        raise TaskAlreadyExists
    if reply == -1:
        raise IdempotencyKeyReused
    holder, note = reply
    return Earlier(note, holder.decode()) if note else LockHeld(holder.decode(errors="replace"))

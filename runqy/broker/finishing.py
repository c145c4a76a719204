"""Ends a run: success, a retry, the archive, or back to the queue; each is refused to any but the task's owner.

Every request here may be run again after a lost reply: what the same owner did before counts as done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import msgspec

from runqy.broker import keys, timing
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.lease import Lease
from runqy.broker.links import Reply
from runqy.broker.message import as_completed, as_failed, cancellation, encode
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, Value, script
from runqy.errors import LeaseLost, RunqyError

DELETION_KNOWN_S = 300
"""How long it is remembered who deleted a task, for finishes that are repeated."""


class Outcome(StrEnum):
    """What became of a task when its run ended."""

    COMPLETED = "completed"
    RETRIED = "retried"
    ARCHIVED = "archived"
    REQUEUED = "requeued"
    CANCELED = "canceled"
    """Archived, because somebody had asked to cancel it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a run failed and when to try again."""

    error: str
    retry_at_s: int
    is_failure: bool = True
    """False: it spends no retry and is not counted."""
    child_died: bool = False
    """The process that ran it died: spends no retry, is not counted, and is noted in the task."""


class Completion(msgspec.Struct, frozen=True):
    """A run that succeeded."""

    lease: Lease
    message: TaskMessage
    result: bytes | None = None
    """None: one that was written while the task ran stays."""


def complete(lease: Lease, message: TaskMessage, result: bytes | None = None, *, now_ns: int) -> Request[Outcome]:
    """Record success, and keep the task as long as its retention says; without one it is deleted. Raises LeaseLost.

    Without a result, one that was written while the task ran stays.
    """
    if message.retention > 0:
        call = _completions([Completion(lease, message, result)], now_ns)
        return Request(commands=(call,), parse=lambda replies: _outcome((Outcome.COMPLETED,) * 2, replies[0]))
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys(lease.queue)
    counters = _counter_keys(queue, now_s)
    return _request(
        Outcome.COMPLETED,
        script("done")(
            **_held(queue, lease),
            processed=counters["processed"],
            processed_day=counters["processed_day"],
            deleted_by=queue.deleted_by(lease.task_id),
            lock=_lock(queue, message),
            counter_expires_s=now_s + timing.COUNTER_TTL_S,
            remember_s=DELETION_KNOWN_S,
            ended_channel=keys.ended_channel(lease.task_id),
        ),
    )


def complete_all(completions: Sequence[Completion], *, now_ns: int) -> Request[list[Outcome | RunqyError]]:
    """Record the success of tasks of one Redis queue, each with a retention, in one script call; see `complete`.

    In the place of a task whose lease was lost stands LeaseLost.
    """
    return Request(commands=(_completions(completions, now_ns),), parse=_completed)


def retry(lease: Lease, message: TaskMessage, failure: Failure, *, now_ns: int) -> Request[Outcome]:
    """Let the task wait for another try; a cancelled one is archived instead. Raises LeaseLost."""
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys(lease.queue)
    is_failure = failure.is_failure and not failure.child_died
    failed = as_failed(message, error=failure.error, now_s=now_s, spends_retry=is_failure)
    call = script("retry")(
        **_held(queue, lease),
        **_counter_keys(queue, now_s),
        **_archiving(queue, lease, now_s),
        retry=queue.retry,
        message=encode(failed),
        cancellation=cancellation(now_s=now_s),
        retry_at_s=failure.retry_at_s,
        is_failure=int(is_failure),
        child_deaths=int(failure.child_died),
    )
    return _request(Outcome.RETRIED, call, second=Outcome.CANCELED)


def archive(
    lease: Lease, message: TaskMessage, *, error: str, now_ns: int, child_died: bool = False
) -> Request[Outcome]:
    """Give a task up: its retries are used up, or it must not run again. Raises LeaseLost."""
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys(lease.queue)
    call = script("archive")(
        **_held(queue, lease),
        **_counter_keys(queue, now_s),
        **_archiving(queue, lease, now_s),
        message=encode(as_failed(message, error=error, now_s=now_s, spends_retry=False)),
        child_deaths=int(child_died),
    )
    return _request(Outcome.ARCHIVED, call)


def requeue(lease: Lease, *, now_ns: int) -> Request[Outcome]:
    """Give a task back, unspent, to the front of its queue; a cancelled one is archived instead. Raises LeaseLost."""
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys(lease.queue)
    call = script("requeue")(
        **_held(queue, lease),
        **_counter_keys(queue, now_s),
        **_archiving(queue, lease, now_s),
        pending=queue.pending,
        idle=queue.idle,
        queue=lease.queue,
        now_ns=now_ns,
        now_ms=now_ns // 1_000_000,
        cancellation=cancellation(now_s=now_s),
    )
    return _request(Outcome.REQUEUED, call, second=Outcome.CANCELED)


def write_result(lease: Lease, result: bytes) -> Request[None]:
    """Store a result while the task goes on. Raises LeaseLost."""
    queue = QueueKeys(lease.queue)
    call = script("write_result")(
        task=queue.task(lease.task_id), lease=queue.lease, id=lease.task_id, owner=lease.token, result=result
    )
    return Request(commands=(call,), parse=_stored)


def _completions(completions: Sequence[Completion], now_ns: int) -> Command:
    """Return the script call that completes tasks of one Redis queue."""
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys(completions[0].lease.queue)
    task_and_lock: list[str] = []
    tasks: list[Value] = []
    for completion in completions:
        lease, message = completion.lease, completion.message
        task = queue.task(lease.task_id)
        task_and_lock.append(task)
        task_and_lock.append(next(iter(_lock(queue, message)), task))
        tasks += (
            lease.task_id,
            lease.token,
            encode(as_completed(message, now_s=now_s)),
            now_s + message.retention,
            keys.ended_channel(lease.task_id),
            0 if completion.result is None else 1,
            completion.result or b"",
        )
    return script("complete")(
        active=queue.active,
        lease=queue.lease,
        completed=queue.completed,
        processed=queue.processed,
        processed_day=queue.processed_on(keys.counter_day(now_s)),
        task_and_lock=task_and_lock,
        now_ns=now_ns,
        counter_expires_s=now_s + timing.COUNTER_TTL_S,
        tasks=tasks,
    )


def _completed(replies: Sequence[Reply]) -> list[Outcome | RunqyError]:
    """Read the reply of complete.lua."""
    return [Outcome.COMPLETED if code else LeaseLost() for code in replies[0]]


def _request(outcome: Outcome, call: Command, second: Outcome | None = None) -> Request[Outcome]:
    """Return the request of one script call that answers 1 for `outcome`, 2 for `second`, 0 for a lost lease."""
    return Request(commands=(call,), parse=partial(_outcome, (outcome, second or outcome)))


def _outcome(outcomes: tuple[Outcome, Outcome], replies: Sequence[Reply]) -> Outcome:
    """Read a finish's answer."""
    if not replies[0]:
        raise LeaseLost
    return outcomes[replies[0] - 1]


def _stored(replies: Sequence[Reply]) -> None:
    """Read write_result's answer."""
    if not replies[0]:
        raise LeaseLost


def _held(queue: QueueKeys, lease: Lease) -> dict[str, Value]:
    """Return what every finish says about the task it ends."""
    return {
        "task": queue.task(lease.task_id),
        "active": queue.active,
        "lease": queue.lease,
        "id": lease.task_id,
        "owner": lease.token,
    }


def _counter_keys(queue: QueueKeys, now_s: int) -> dict[str, str]:
    """Return the four counters of attempts."""
    day = keys.counter_day(now_s)
    return {
        "processed": queue.processed,
        "failed": queue.failed,
        "processed_day": queue.processed_on(day),
        "failed_day": queue.failed_on(day),
    }


def _archiving(queue: QueueKeys, lease: Lease, now_s: int) -> dict[str, Value]:
    """Return what a script needs to archive a task, to trim the archive and to count the failure."""
    return {
        "archived": queue.archived,
        "now_s": now_s,
        "task_prefix": queue.task_prefix,
        "oldest_s": now_s - timing.ARCHIVE_MAX_AGE_S,
        "most": timing.ARCHIVE_MAX_TASKS,
        "counter_expires_s": now_s + timing.COUNTER_TTL_S,
        "ended_channel": keys.ended_channel(lease.task_id),
    }


def _lock(queue: QueueKeys, message: TaskMessage) -> list[str]:
    """Return the task's uniqueness lock, if it has one among its queue's keys."""
    is_ours = message.unique_key.startswith(queue.lock_prefix)
    return [message.unique_key] if is_ours else []

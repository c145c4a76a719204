"""Finish runs: complete, retry, archive or requeue; each is refused without the lease.

Every request here may be repeated after a lost reply: a repetition with the same token is a success.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import msgspec

from runqy.broker import constants, keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.keys import QueueKeys
from runqy.broker.message import as_completed, as_failed, cancellation
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import Command, Value, script
from runqy.broker.states import RunOutcome
from runqy.broker.streams.ends import MAX_RESULT_BYTES
from runqy.broker.streams.run_log import NO_INFO, RunInfo, make_details
from runqy.broker.tasks.lease import Lease
from runqy.broker.tasks.record import make_failure
from runqy.errors import LeaseLost, RunqyError

DELETED_BY_TTL_S = 300
"""How long the lease token that deleted a task and the task's time of enqueue are remembered: repeated requests
to finish or to enqueue it succeed."""


class FinishOutcome(StrEnum):
    """What happened to a task when its run ended."""

    COMPLETED = "completed"
    RETRIED = "retried"
    ARCHIVED = "archived"
    REQUEUED = "requeued"
    CANCELED = "canceled"
    """Archived, because its cancellation was requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a run failed and when to retry it."""

    error: str
    retry_at_s: int
    is_failure: bool = True
    """False: the run spends no retry and is not counted."""
    child_died: bool = False
    """The child process died. The run spends no retry and is no failure, but the task counts such deaths."""


class Completion(msgspec.Struct, frozen=True):
    """A successful run."""

    lease: Lease
    message: TaskMessage
    result: bytes | None = None
    """None keeps a result that was written during the run."""
    info: RunInfo = NO_INFO


def complete(  # noqa: PLR0913 (how a run ended)
    lease: Lease,
    message: TaskMessage,
    result: bytes | None = None,
    *,
    now_ns: int,
    info: RunInfo = NO_INFO,
    wants_result: bool = False,
) -> Request[FinishOutcome]:
    """Record success, and keep the task for its retention; delete it if that is 0. Raise LeaseLost.

    If `result` is None, one that was written during the run is kept. That of a task without retention is sent only if
    its end is told with it (`LeasedTask.wants_result`).
    """
    if message.retention > 0:
        call = _completions([Completion(lease, message, result, info)], now_ns)
        return Request(commands=(call,), parse=lambda replies: _outcome((FinishOutcome.COMPLETED,) * 2, replies[0]))
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys.of(lease.queue)
    counters = _counter_keys(queue, now_s)
    return _request(
        FinishOutcome.COMPLETED,
        script("complete_and_delete")(
            **_lease_keys(queue, lease),
            processed=counters["processed"],
            processed_day=counters["processed_day"],
            deleted_by=queue.deleted_by(lease.task_id),
            runs=queue.runs,
            lock=_lock_key(queue, message),
            counter_expires_s=now_s + constants.COUNTER_TTL_S,
            remember_s=DELETED_BY_TTL_S,
            ended_channel=keys.ended_channel(lease.task_id),
            now_ns=now_ns,
            details=make_details(message, info, result=result),
            result=(result or b"")[: MAX_RESULT_BYTES + 1] if wants_result else b"",
        ),
    )


def complete_all(completions: Sequence[Completion], *, now_ns: int) -> Request[list[FinishOutcome | RunqyError]]:
    """Record the success of tasks of one Redis queue in one script call, each with a retention above 0; see `complete`.

    The outcome of a task whose lease was lost is LeaseLost.
    """
    return Request(commands=(_completions(completions, now_ns),), parse=_completed)


def retry(  # noqa: PLR0913 (how a run ended, and where the archive's size comes from)
    lease: Lease,
    message: TaskMessage,
    failure: Failure,
    *,
    now_ns: int,
    max_archived: int = constants.ARCHIVE_MAX_TASKS,
    info: RunInfo = NO_INFO,
) -> Request[FinishOutcome]:
    """Move the task to the retry set, or archive it if its cancellation was requested. Raise LeaseLost."""
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys.of(lease.queue)
    is_failure = failure.is_failure and not failure.child_died
    failed = as_failed(message, error=failure.error, now_s=now_s, spends_retry=is_failure)
    call = script("retry")(
        **_lease_keys(queue, lease),
        **_counter_keys(queue, now_s),
        **_archive_arguments(queue, lease, now_s, max_archived),
        retry=queue.retry,
        message=failed.SerializeToString(),
        cancellation=cancellation(now_s=now_s),
        retry_at_s=failure.retry_at_s,
        is_failure=int(is_failure),
        child_deaths=int(failure.child_died),
        runs=queue.runs,
        outcome=(info.outcome or RunOutcome.RETRIED).value,
        now_ns=now_ns,
        details=make_details(message, info, error=failure.error),
        failure=make_failure(failure.error, info.error_class),
    )
    return _request(FinishOutcome.RETRIED, call, second=FinishOutcome.CANCELED)


def archive(  # noqa: PLR0913 (as `retry`)
    lease: Lease,
    message: TaskMessage,
    *,
    error: str,
    now_ns: int,
    child_died: bool = False,
    max_archived: int = constants.ARCHIVE_MAX_TASKS,
    info: RunInfo = NO_INFO,
) -> Request[FinishOutcome]:
    """Archive the task, because no retry is left or because it must not run again. Raise LeaseLost."""
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys.of(lease.queue)
    call = script("archive")(
        **_lease_keys(queue, lease),
        **_counter_keys(queue, now_s),
        **_archive_arguments(queue, lease, now_s, max_archived),
        message=as_failed(message, error=error, now_s=now_s, spends_retry=False).SerializeToString(),
        child_deaths=int(child_died),
        runs=queue.runs,
        outcome=(info.outcome or RunOutcome.FAILED).value,
        now_ns=now_ns,
        details=make_details(message, info, error=error),
        failure=make_failure(error, info.error_class),
    )
    return _request(FinishOutcome.ARCHIVED, call)


def requeue(  # noqa: PLR0913 (as `retry`)
    lease: Lease,
    message: TaskMessage | None = None,
    *,
    now_ns: int,
    shared_death: bool = False,
    max_archived: int = constants.ARCHIVE_MAX_TASKS,
    info: RunInfo = NO_INFO,
) -> Request[FinishOutcome]:
    """Return the task to the front of its queue without spending a retry, or archive it if its cancellation was
    requested.

    With `shared_death` its child died while it ran other tasks too, which the task counts. Only the history needs the
    message. Raise LeaseLost.
    """
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys.of(lease.queue)
    call = script("requeue")(
        **_lease_keys(queue, lease),
        **_counter_keys(queue, now_s),
        **_archive_arguments(queue, lease, now_s, max_archived),
        pending=queue.pending,
        idle=queue.idle,
        queue=lease.queue,
        now_ns=now_ns,
        now_ms=now_ns // 1_000_000,
        cancellation=cancellation(now_s=now_s),
        shared_deaths=int(shared_death),
        runs=queue.runs,
        details=make_details(message, info),
    )
    return _request(FinishOutcome.REQUEUED, call, second=FinishOutcome.CANCELED)


def write_result(lease: Lease, result: bytes) -> Request[None]:
    """Store a result during the run. Raise LeaseLost."""
    queue = QueueKeys.of(lease.queue)
    call = script("write_result")(
        task=queue.task(lease.task_id), lease=queue.lease, id=lease.task_id, lease_token=lease.token, result=result
    )
    return Request(commands=(call,), parse=_is_written)


def _completions(completions: Sequence[Completion], now_ns: int) -> Command:
    now_s = now_ns // 1_000_000_000
    queue = QueueKeys.of(completions[0].lease.queue)
    task_and_lock: list[str] = []
    tasks: list[Value] = []
    for completion in completions:
        lease, message = completion.lease, completion.message
        task = queue.task(lease.task_id)
        task_and_lock.append(task)
        task_and_lock.append(next(iter(_lock_key(queue, message)), task))
        tasks += (
            lease.task_id,
            lease.token,
            as_completed(message, now_s=now_s).SerializeToString(),
            now_s + message.retention,
            keys.ended_channel(lease.task_id),
            0 if completion.result is None else 1,
            completion.result or b"",
            make_details(message, completion.info, result=completion.result),
        )
    return script("complete")(
        active=queue.active,
        lease=queue.lease,
        completed=queue.completed,
        processed=queue.processed,
        processed_day=queue.processed_on(keys.counter_day(now_s)),
        runs=queue.runs,
        task_and_lock=task_and_lock,
        now_ns=now_ns,
        counter_expires_s=now_s + constants.COUNTER_TTL_S,
        tasks=tasks,
    )


def _completed(replies: Sequence[Reply]) -> list[FinishOutcome | RunqyError]:
    return [FinishOutcome.COMPLETED if code else LeaseLost() for code in replies[0]]


def _request(outcome: FinishOutcome, call: Command, second: FinishOutcome | None = None) -> Request[FinishOutcome]:
    """Return the request for a script that replies 1 for `outcome`, 2 for `second` and 0 for a lost lease."""
    return Request(commands=(call,), parse=partial(_outcome, (outcome, second or outcome)))


def _outcome(outcomes: tuple[FinishOutcome, FinishOutcome], replies: Sequence[Reply]) -> FinishOutcome:
    if not replies[0]:
        raise LeaseLost
    return outcomes[replies[0] - 1]


def _is_written(replies: Sequence[Reply]) -> None:
    if not replies[0]:
        raise LeaseLost


def _lease_keys(queue: QueueKeys, lease: Lease) -> dict[str, Value]:
    return {
        "task": queue.task(lease.task_id),
        "active": queue.active,
        "lease": queue.lease,
        "id": lease.task_id,
        "lease_token": lease.token,
    }


def _counter_keys(queue: QueueKeys, now_s: int) -> dict[str, str]:
    day = keys.counter_day(now_s)
    return {
        "processed": queue.processed,
        "failed": queue.failed,
        "processed_day": queue.processed_on(day),
        "failed_day": queue.failed_on(day),
    }


def _archive_arguments(queue: QueueKeys, lease: Lease, now_s: int, max_archived: int) -> dict[str, Value]:
    return {
        "archived": queue.archived,
        "now_s": now_s,
        "task_prefix": queue.task_prefix,
        "oldest_s": now_s - constants.ARCHIVE_MAX_AGE_S,
        "max_archived": max_archived,
        "counter_expires_s": now_s + constants.COUNTER_TTL_S,
        "ended_channel": keys.ended_channel(lease.task_id),
    }


def _lock_key(queue: QueueKeys, message: TaskMessage) -> list[str]:
    # Other producers may have written any key there. A script may only touch those of its queue.
    is_ours = message.unique_key.startswith(queue.lock_prefix)
    return [message.unique_key] if is_ours else []

"""Why a task is archived: the errors that runqy itself writes into tasks, and the outcomes that they stand for.

docs/reference/states.md defines the outcomes. The history has the outcome of each run. This module is for tasks without
history: in the seconds until a run is recorded, and if workers record none.
"""

from enum import StrEnum

from runqy.broker.message import DEFAULT_TIMEOUT_S
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.record import TaskRecord

DEADLINE_EXCEEDED = "deadline exceeded"
LEASE_EXPIRED = "asynq: task lease expired"
"""As asynq's recoverer writes it."""
_LEASE_EXPIRED_IN_1_0 = "task lease expired"
ARCHIVED_ON_REQUEST = "archived on request"
"""The error in the end of a task that a user archived. The task itself keeps that of its last run."""
_WAITED_TOO_LONG = "waited in the queue for longer than its pending_timeout of"


class ErrorClass(StrEnum):
    """The classes of errors that runqy itself writes. Each can be imported where `runqy-sdk` is installed."""

    TIMEOUT = "runqy_sdk.errors.Timeout"
    DEADLINE_EXCEEDED = "runqy_sdk.errors.DeadlineExceeded"
    WORKER_LOST = "runqy_sdk.errors.WorkerLost"
    PROCESS_DIED = "runqy_sdk.errors.ProcessDied"
    PROCESS_KILLED = "runqy_sdk.errors.ProcessKilled"
    PROCESS_EXITED = "runqy_sdk.errors.ProcessExited"
    RESULT_TOO_LARGE = "runqy_sdk.errors.ResultTooLarge"
    RESULT_INVALID = "runqy_sdk.errors.ResultInvalid"
    RESPONSE_INVALID = "runqy_sdk.errors.ResponseInvalid"
    STREAM_INCOMPLETE = "runqy_sdk.errors.StreamIncomplete"
    PAYLOAD_UNUSABLE = "runqy_sdk.errors.PayloadUnusable"


def pending_timeout_error(timeout_s: int) -> str:
    return f"{_WAITED_TOO_LONG} {timeout_s} s: start more workers, or raise it"


def timeout_error(timeout_s: int) -> str:
    """Return the error of a run that its timeout ended. 0 stands for the default timeout."""
    return (
        f"timed out after {timeout_s or DEFAULT_TIMEOUT_S} s: raise the task's timeout, or active_timeout of the queue"
    )


def find_archive_outcome(record: TaskRecord, *, now_s: int) -> RunOutcome | None:
    """Return how an archived task ended; None if a user archived it, or if it is in another state."""
    if record.is_canceled:
        return RunOutcome.CANCELED
    if record.state is not TaskState.ARCHIVED or not record.error or is_archived_by_user(record, now_s=now_s):
        return None
    if record.error == DEADLINE_EXCEEDED:
        return RunOutcome.TIMED_OUT if _has_started_in_time(record) else RunOutcome.EXPIRED
    if record.error.startswith(_WAITED_TOO_LONG):
        return RunOutcome.EXPIRED
    if record.error in (LEASE_EXPIRED, _LEASE_EXPIRED_IN_1_0):
        return RunOutcome.LOST
    return RunOutcome.TIMED_OUT if record.error == timeout_error(record.message.timeout) else RunOutcome.FAILED


def is_archived_by_user(record: TaskRecord, *, now_s: int) -> bool:
    """Return whether a user archived a task, in runqy or asynq's tools: an error of the task is older then.

    A worker archives a task in the second in which it failed. Go's runqy-worker does not store that time, only when the
    task expires.
    """
    archived_at_s = record.archived_at_s or 0
    return archived_at_s != record.message.last_failed_at and archived_at_s <= now_s


def _has_started_in_time(record: TaskRecord) -> bool:
    return record.started_at_ns is not None and record.started_at_ns < record.message.deadline * 10**9

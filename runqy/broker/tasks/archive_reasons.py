"""Why a task is archived: the errors that runqy itself writes into tasks, and the outcomes that they stand for.

docs/states.md defines the outcomes. The history has them for each run; what is here serves where it has none: for the
seconds until a run is recorded, and for workers that record nothing.
"""

from runqy.broker.message import DEFAULT_TIMEOUT_S
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.record import TaskRecord

DEADLINE_EXCEEDED = "deadline exceeded"
LEASE_EXPIRED = "task lease expired"
_WAITED_TOO_LONG = "waited in the queue for longer than its pending_timeout of"


def pending_timeout_error(timeout_s: int) -> str:
    """Return the error of a task that was pending for longer than its queue allows."""
    return f"{_WAITED_TOO_LONG} {timeout_s} s: start more workers, or raise it"


def timeout_error(timeout_s: int) -> str:
    """Return the error of a run that its timeout ended; 0 is the default."""
    return (
        f"timed out after {timeout_s or DEFAULT_TIMEOUT_S} s: raise the task's timeout, or active_timeout of the queue"
    )


def find_archive_outcome(record: TaskRecord, *, now_s: int) -> RunOutcome | None:
    """Return how a task ended that is archived; None if a user archived it, or it is in another state."""
    if record.is_canceled:
        return RunOutcome.CANCELED
    if record.state is not TaskState.ARCHIVED or not record.error or is_archived_by_user(record, now_s=now_s):
        return None
    if record.error == DEADLINE_EXCEEDED:
        return RunOutcome.TIMED_OUT if _has_started_in_time(record) else RunOutcome.EXPIRED
    if record.error.startswith(_WAITED_TOO_LONG):
        return RunOutcome.EXPIRED
    outcomes = {timeout_error(record.message.timeout): RunOutcome.TIMED_OUT, LEASE_EXPIRED: RunOutcome.LOST}
    return outcomes.get(record.error, RunOutcome.FAILED)


def is_archived_by_user(record: TaskRecord, *, now_s: int) -> bool:
    """Return whether an archived task was archived by a user, in runqy or asynq's tools: its error, if any, is older.

    Workers archive a task in the second in which it failed. Go's runqy-worker does not store when that was; what its
    tasks have is the time of their expiry.
    """
    archived_at_s = record.archived_at_s or 0
    return archived_at_s != record.message.last_failed_at and archived_at_s <= now_s


def _has_started_in_time(record: TaskRecord) -> bool:
    """Return whether a worker began the last run before its deadline."""
    return record.started_at_ns is not None and record.started_at_ns < record.message.deadline * 10**9

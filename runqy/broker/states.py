"""The states of a task and the outcomes of its runs, spelled as in Redis."""

from enum import StrEnum


class TaskState(StrEnum):
    """The state of a task. The value is also the last part of the key of its index."""

    PENDING = "pending"
    ACTIVE = "active"
    SCHEDULED = "scheduled"
    RETRY = "retry"
    ARCHIVED = "archived"
    COMPLETED = "completed"
    AGGREGATING = "aggregating"  # only asynq's own clients put tasks into groups

    @property
    def is_final(self) -> bool:
        return self in (TaskState.COMPLETED, TaskState.ARCHIVED)

    @classmethod
    def read(cls, text: bytes | None) -> "TaskState | None":
        return _BY_TEXT.get(text or b"")


class RunOutcome(StrEnum):
    """How a run ended. Tasks that were cancelled or expired while they waited have an outcome without a run.

    docs/reference/states.md defines the outcomes for users.
    """

    COMPLETED = "completed"
    RETRIED = "retried"
    """It failed, and the task runs again."""
    FAILED = "failed"
    """It failed, and the task was archived."""
    CANCELED = "canceled"
    TIMED_OUT = "timed_out"
    """Its timeout or deadline ended it, whether or not the task runs again."""
    EXPIRED = "expired"
    """The task was not started: it waited for longer than its queue allows, or its deadline had passed."""
    LOST = "lost"
    """Its worker fell silent, whether or not the task runs again."""


FAILURES = frozenset({RunOutcome.RETRIED, RunOutcome.FAILED, RunOutcome.TIMED_OUT, RunOutcome.EXPIRED, RunOutcome.LOST})
"""Outcomes that count as failures, whether or not the task runs again: in statistics, groups of errors and alerts."""

_BY_TEXT = {state.value.encode(): state for state in TaskState}

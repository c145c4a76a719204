"""Owns the states of a task, spelled as they stand in Redis."""

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is in its life; the text is also the suffix of the index key that lists it."""

    PENDING = "pending"
    ACTIVE = "active"
    SCHEDULED = "scheduled"
    RETRY = "retry"
    ARCHIVED = "archived"
    COMPLETED = "completed"
    AGGREGATING = "aggregating"  # only asynq's own clients put tasks into groups

    @property
    def is_final(self) -> bool:
        """Tell whether a task in this state is over."""
        return self in (TaskState.COMPLETED, TaskState.ARCHIVED)

    @classmethod
    def read(cls, text: bytes | None) -> "TaskState | None":
        """Return the state that a text from Redis names; None for a text that is none."""
        return _BY_TEXT.get(text or b"")


_BY_TEXT = {state.value.encode(): state for state in TaskState}

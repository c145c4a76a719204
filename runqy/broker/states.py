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

"""Owns what is known about a task, as one value read from its hash."""

from collections.abc import Mapping, Sequence

import msgspec

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.message import MessageUnreadable, decode
from runqy.broker.numbers import read_number, read_score
from runqy.broker.states import TaskState


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that Redis holds about one task."""

    id: str
    queue: str
    """The Redis queue."""
    state: TaskState
    message: TaskMessage
    """Type, payload, retries, error, limits; empty but for id and queue when what stands in Redis is damaged."""
    result: bytes | None = None
    score_s: int | None = None
    """Unix s in the index of its state: next run, end of the lease, time of archiving, or expiry."""
    pending_since_ns: int | None = None
    enqueued_at_ns: int | None = None
    started_at_ns: int | None = None
    """Start of the last run."""
    completed_ns: int | None = None
    """When one of our workers completed it last, to the nanosecond."""
    cancel_asked_at_ns: int | None = None
    worker_id: str = ""
    """Worker of the last run."""
    child_deaths: int = 0
    counted_attempts: int = 0
    """Takes by our workers, without those that were given back."""
    ttl_archived_s: int | None = None
    error: str = ""
    """Text of the last error."""
    retried: int = 0

    @property
    def payload(self) -> bytes:
        """Return the bytes that the client sent."""
        return self.message.payload

    @property
    def next_process_at_s(self) -> int | None:
        """Return when it runs next, where that is known."""
        return self.score_s if self.state in (TaskState.SCHEDULED, TaskState.RETRY) else None

    @property
    def completed_at_s(self) -> int | None:
        """Return when it succeeded."""
        return self.message.completed_at or None

    @property
    def completed_at_ns(self) -> int | None:
        """Return when it succeeded, as exactly as is known: asynq's message has whole seconds, cut off."""
        at_s = self.completed_at_s
        if at_s is None:
            return None
        is_of_this_end = self.completed_ns is not None and self.completed_ns // 10**9 == at_s
        return self.completed_ns if is_of_this_end else at_s * 10**9

    @property
    def archived_at_s(self) -> int | None:
        """Return when it was given up."""
        return self.score_s if self.state is TaskState.ARCHIVED else None

    @property
    def expires_at_s(self) -> int | None:
        """Return when one that is over is forgotten, where that is known."""
        if self.state is TaskState.COMPLETED:
            return self.score_s
        if self.archived_at_s is None or self.ttl_archived_s is None:
            return None
        return self.archived_at_s + self.ttl_archived_s

    @property
    def attempts(self) -> int:
        """Return how many runs have begun, without those that were given back.

        Go's workers do not count them: of a task that one of them ran, each run but the present or last spent a retry.
        """
        if self.started_at_ns is None:
            return self.retried
        if self.state is TaskState.ARCHIVED and self.counted_attempts >= max(self.retried, 1):
            return self.counted_attempts  # cancelled while it waited, it has spent a retry for each
        has_failed_since = self.state in (TaskState.RETRY, TaskState.PENDING, TaskState.SCHEDULED)
        return max(self.counted_attempts, self.retried + (0 if has_failed_since else 1))

    @property
    def is_canceled(self) -> bool:
        """Tell whether it was given up because somebody asked for it."""
        return self.state is TaskState.ARCHIVED and self.cancel_asked_at_ns is not None


def read_record(queue: str, task_id: str, score: bytes, pairs: Sequence[bytes]) -> TaskRecord | None:
    """Return a task from the fields and values of its hash; None for a remnant that is no task."""
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    state = TaskState.read(fields.get(b"state"))
    if b"msg" not in fields or state is None:
        return None
    try:
        message = decode(fields[b"msg"])
    except MessageUnreadable:
        message = TaskMessage(id=task_id, queue=queue, type=queue, error_msg="its message is damaged")
    return TaskRecord(
        id=task_id,
        queue=queue,
        state=state,
        message=message,
        result=fields.get(b"result"),
        score_s=read_score(score),
        pending_since_ns=_number(fields, b"pending_since"),
        enqueued_at_ns=_number(fields, b"enqueued"),
        started_at_ns=_number(fields, b"started"),
        completed_ns=_number(fields, b"completed"),
        cancel_asked_at_ns=_number(fields, b"cancel"),
        worker_id=fields.get(b"worker", b"").decode("utf-8", "replace"),
        child_deaths=_number(fields, b"child_deaths") or 0,
        counted_attempts=_number(fields, b"attempts") or 0,
        ttl_archived_s=_number(fields, b"ttl_archived"),
        # Go's runqy-worker keeps these two outside the message.
        error=message.error_msg or fields.get(b"error_msg", b"").decode("utf-8", "replace"),
        retried=max(message.retried, _number(fields, b"retried") or 0),
    )


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    """Return a field as a number; None when it is missing or no number."""
    return read_number(fields.get(name))

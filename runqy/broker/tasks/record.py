"""The value of a task as stored in Redis, with the failed attempts in the field `failures` of its hash."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.message import CANCELED, MessageUnreadable, decode, restore_limits
from runqy.broker.replies import read_number, read_score, read_time_ns, replace_nul
from runqy.broker.states import TaskState
from runqy.broker.streams.run_log import cut_error
from runqy.broker.tasks.lease import SUSPECT_DEATHS
from runqy.core.formats.json_decoding import read_json


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed."""

    attempt: int
    worker_id: str
    ended_ns: int
    error_class: str = ""
    error: str = ""
    """An excerpt; empty also if later attempts took its place."""


def make_failure(error: str, error_class: str = "") -> bytes:
    """Return what a script adds to a task about an attempt that failed (`lua/parts/add_failure.lua`)."""
    text = cut_error(error).encode("utf-8", "replace").decode()
    return msgspec.json.encode(error_class) + b"\t" + msgspec.json.encode(text)


def read_failures(content: bytes) -> Iterator[FailedAttempt]:
    """Yield the attempts that a task remembers, oldest first. Lines that no script of ours wrote are left out."""
    for line in content.split(b"\n"):
        try:
            run, *texts = line.split(b"\t")
            attempt, worker_id, ended = read_json(run, tuple[str, str, str])
            number, ended_ns = read_number(attempt.encode()), read_time_ns(ended.encode())
            if number is None or ended_ns is None:
                continue
            error_class, error = (*(replace_nul(read_json(text, str)) for text in texts), "", "")[:2]
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            continue
        yield FailedAttempt(
            attempt=number, worker_id=worker_id, ended_ns=ended_ns, error_class=error_class, error=error
        )


_Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class TaskProgress(msgspec.Struct, frozen=True):
    """The progress of a run, as its handler reported it last."""

    current: _Amount
    total: _Amount | None = None
    message: str = ""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All fields of a task in Redis."""

    id: str
    queue: str
    """The Redis queue."""
    state: TaskState
    message: TaskMessage
    """Type, payload, retries, error and limits; only id and queue if the stored message is damaged."""
    has_payload: bool = True
    """False: the payload was not read."""
    result: bytes | None = None
    score_s: int | None = None
    """The score in the index of its state, in Unix s: next run, end of the lease or expiry (see `archived_at_s`)."""
    pending_since_ns: int | None = None
    enqueued_at_ns: int | None = None
    started_at_ns: int | None = None
    """Start of the last run."""
    completed_ns: int | None = None
    """When a runqy worker completed it last."""
    cancel_requested_at_ns: int | None = None
    worker_id: str = ""
    """Worker of the last run."""
    child_deaths: int = 0
    """How many child processes died while they ran only this task."""
    shared_deaths: int = 0
    """How many died while they ran it beside other tasks, since a child last responded for it."""
    counted_attempts: int = 0
    """The number of runs by runqy workers, except those that were requeued."""
    runs: int = 0
    """The number of runs by runqy workers, also those that were requeued. It never falls."""
    ttl_archived_s: int | None = None
    archived_field_s: int | None = None
    """When runqy archived it last. Other programs leave this field when they run the task again."""
    error: str = ""
    retried: int = 0
    progress: TaskProgress | None = None
    """The progress of the last run."""
    failures: Sequence[FailedAttempt] = ()
    """The attempts that failed since it was enqueued or run again, oldest first."""

    @property
    def payload(self) -> bytes:
        return self.message.payload

    def without_payload(self) -> "TaskRecord":
        # A message frees the memory of a field only with its own.
        kept = {field.name: value for field, value in self.message.ListFields() if field.name != "payload"}
        return msgspec.structs.replace(self, message=TaskMessage(**kept), has_payload=False)

    @property
    def is_suspect(self) -> bool:
        """Whether it runs alone, to show whether it is what its processes died of."""
        return self.shared_deaths >= SUSPECT_DEATHS

    @property
    def next_process_at_s(self) -> int | None:
        return self.score_s if self.state in (TaskState.SCHEDULED, TaskState.RETRY) else None

    @property
    def completed_at_s(self) -> int | None:
        return self.message.completed_at or None

    @property
    def completed_at_ns(self) -> int | None:
        """When it succeeded, as precisely as is known: asynq's message has whole seconds, which are truncated."""
        at_s = self.completed_at_s
        if at_s is None:
            return None
        is_of_this_end = self.completed_ns is not None and self.completed_ns // 10**9 == at_s
        return self.completed_ns if is_of_this_end else at_s * 10**9

    @property
    def archived_at_s(self) -> int | None:
        """When it was archived. The score is the expiry if runqy archived it, or that time if asynq did."""
        if self.state is not TaskState.ARCHIVED or self.archived_field_s is None:
            return self.score_s if self.state is TaskState.ARCHIVED else None
        ttl_s = ARCHIVE_MAX_AGE_S if self.ttl_archived_s is None else self.ttl_archived_s
        is_expiry = self.score_s == self.archived_field_s + min(ttl_s, ARCHIVE_MAX_AGE_S)
        return self.archived_field_s if is_expiry else self.score_s

    @property
    def expires_at_s(self) -> int | None:
        """When a finished task is deleted; None if it is not finished, or if that is unknown."""
        if self.state is TaskState.COMPLETED:
            return self.score_s
        if self.archived_at_s is None or self.ttl_archived_s is None:
            return None
        return self.archived_at_s + self.ttl_archived_s

    @property
    def attempts(self) -> int:
        """How many runs have begun, without those that were requeued.

        Go's workers do not count runs. Of their tasks every run spent a retry, except the current or last one.
        """
        if self.started_at_ns is None:
            return self.retried
        if self.state is TaskState.ARCHIVED and self.counted_attempts >= max(self.retried, 1):
            return self.counted_attempts  # cancelled while it waited: each run spent a retry
        has_failed_since = self.state in (TaskState.RETRY, TaskState.PENDING, TaskState.SCHEDULED)
        return max(self.counted_attempts, self.retried + (0 if has_failed_since else 1))

    @property
    def error_class(self) -> str:
        """The import path of the exception behind `error`; empty if the SDK sent none."""
        # An attempt of another program, and a cancellation, change only the message.
        last, failed_at_s = next(reversed(self.failures), None), self.message.last_failed_at
        is_of_this_error = last is not None and last.ended_ns // 10**9 == failed_at_s and self.error != CANCELED
        return last.error_class if last is not None and is_of_this_error else ""

    @property
    def is_canceled(self) -> bool:
        """Whether it was archived because its cancellation was requested. asynq's tools leave no trace of that."""
        has_mark = self.cancel_requested_at_ns is not None or self.message.error_msg == CANCELED
        return self.state is TaskState.ARCHIVED and has_mark


def read_record(
    queue: str, task_id: str, score: bytes, pairs: Sequence[bytes], *, has_payload: bool = True
) -> TaskRecord | None:
    """Return a task from the fields and values of its hash in turn; None if it is incomplete."""
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    state = TaskState.read(fields.get(b"state"))
    if b"msg" not in fields or state is None:
        return None
    retried = _number(fields, b"retried") or 0
    try:
        message = decode(fields[b"msg"])
        if not has_payload:
            message.ClearField("payload")
        restore_limits(
            message,
            ttl_completed_s=_number(fields, b"ttl_completed") or 0,
            active_timeout_s=_number(fields, b"active_timeout") or 0,
            retried=retried,
        )
    except MessageUnreadable:
        message = TaskMessage(id=task_id, queue=queue, type=queue, error_msg="the stored message is damaged")
    return TaskRecord(
        id=task_id,
        queue=queue,
        state=state,
        message=message,
        has_payload=has_payload,
        result=fields.get(b"result"),
        score_s=read_score(score),
        pending_since_ns=read_time_ns(fields.get(b"pending_since")),
        enqueued_at_ns=_number(fields, b"enqueued"),
        started_at_ns=_number(fields, b"started"),
        completed_ns=_number(fields, b"completed"),
        cancel_requested_at_ns=_number(fields, b"cancel"),
        worker_id=fields.get(b"worker", b"").decode("utf-8", "replace"),
        child_deaths=_number(fields, b"child_deaths") or 0,
        shared_deaths=_number(fields, b"shared_deaths") or 0,
        counted_attempts=_number(fields, b"attempts") or 0,
        runs=_number(fields, b"runs") or 0,
        ttl_archived_s=_number(fields, b"ttl_archived"),
        archived_field_s=_number(fields, b"archived_at"),
        # Go's runqy-worker stores it outside the message.
        error=message.error_msg or fields.get(b"error_msg", b"").decode("utf-8", "replace"),
        retried=max(message.retried, retried),
        progress=decode_progress(fields.get(b"progress")),
        failures=tuple(read_failures(fields.get(b"failures", b""))),
    )


def decode_progress(content: bytes | None) -> TaskProgress | None:
    """Return a task's progress; None if it is missing or invalid."""
    if content is None:
        return None
    try:
        return read_json(content, TaskProgress)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    return read_number(fields.get(name))

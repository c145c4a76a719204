"""Owns asynq's task message: how it is built, read, and changed when a run ends."""

from google.protobuf.message import DecodeError

from runqy.broker.asynq_pb2 import TaskMessage

DEFAULT_TIMEOUT_S = 1800
"""What a task without timeout and deadline gets; asynq treats 0 and 0 as an error."""

ERROR_MAX_BYTES = 16_384
REQUEST_ID, TRACEPARENT = "x-request-id", "traceparent"
"""The headers of a message that say which request made the task, and the trace that it belongs to."""

FRESH_START = b"\x30\x00\x68\x00"
"""Behind an encoded message: no retries spent, never completed (fields 6 and 13; an encoder leaves zeros out)."""

CANCELED = "canceled"
"""The error text of a task that somebody cancelled."""


class MessageUnreadable(Exception):
    """The bytes are no task message."""


def encode(message: TaskMessage) -> bytes:
    """Return a message as it stands in Redis, fields unknown to us included."""
    return message.SerializeToString()


def decode(data: bytes) -> TaskMessage:
    """Read a message from Redis. Raises MessageUnreadable."""
    try:
        return TaskMessage.FromString(data)
    except DecodeError as error:
        raise MessageUnreadable(str(error)) from error


def as_completed(message: TaskMessage, *, now_s: int) -> TaskMessage:
    """Return a copy that says when the task succeeded."""
    changed = _copy(message)
    changed.completed_at = now_s
    return changed


def as_failed(message: TaskMessage, *, error: str, now_s: int, spends_retry: bool) -> TaskMessage:
    """Return a copy that carries the error of a run, and one retry more if the run spends one."""
    changed = _copy(message)
    changed.error_msg = clean_text(error)
    changed.last_failed_at = now_s
    if spends_retry:
        changed.retried += 1
    return changed


def cancellation(*, now_s: int) -> bytes:
    """Return bytes that, behind an encoded message, make it that of a cancelled task.

    In protobuf a later occurrence of a field overrides an earlier one, so a script can change a message it cannot read.
    """
    return encode(TaskMessage(error_msg=CANCELED, last_failed_at=now_s))


def run_deadline_s(message: TaskMessage, *, now_s: int) -> int:
    """Return the Unix s at which a run that starts now has to end: timeout or deadline, whichever is earlier."""
    ends = [now_s + message.timeout] if message.timeout > 0 else []
    if message.deadline:
        ends.append(message.deadline)
    return min(ends, default=now_s + DEFAULT_TIMEOUT_S)


def run_time_s(message: TaskMessage, *, now_ns: int) -> float:
    """Return how long a run that starts now may take, exactly: `run_deadline_s` can be almost a second early."""
    timeout_s: float = message.timeout if message.timeout > 0 else DEFAULT_TIMEOUT_S
    if not message.deadline:
        return timeout_s
    left_s = message.deadline - now_ns / 1e9
    return min(left_s, timeout_s) if message.timeout > 0 else left_s


def clean_text(text: str) -> str:
    """Return a text that Go accepts as UTF-8 and that is short enough for a message; its end matters most."""
    data = text.encode("utf-8", "replace")
    if len(data) > ERROR_MAX_BYTES:
        data = b"... " + data[-ERROR_MAX_BYTES:]
    return data.decode("utf-8", "ignore")


def _copy(message: TaskMessage) -> TaskMessage:
    """Return a message equal to this one."""
    changed = TaskMessage()
    changed.CopyFrom(message)
    return changed

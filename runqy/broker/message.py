"""Build and read asynq's task message, and change it when a run ends."""

from functools import lru_cache

from google.protobuf.message import DecodeError

from runqy.broker.asynq_pb2 import TaskMessage

DEFAULT_TIMEOUT_S = 1800
"""The time limit of a task without timeout and deadline; asynq treats two zeros as an error."""

ERROR_MAX_BYTES = 16_384
MAX_INT32 = 2**31 - 1
"""The limit for numbers from a task's hash: workers can write any number there, and protobuf rejects larger ones."""

FRESH_START = b"\x30\x00\x68\x00"
"""Appended to an encoded message, it resets `retried` and `completed_at` (fields 6 and 13) to 0: in protobuf a later
field overrides an earlier one. Encoders omit zeros, so these bytes are spelled out."""

CANCELED = "canceled"
"""The error text of a cancelled task."""


class MessageUnreadable(Exception):
    """The bytes are not a task message."""


def decode(data: bytes) -> TaskMessage:
    """Decode a message from Redis. Fields that this version does not know are kept. Raise MessageUnreadable."""
    try:
        return TaskMessage.FromString(data)
    except DecodeError as error:
        raise MessageUnreadable(str(error)) from error


def as_completed(message: TaskMessage, *, now_s: int) -> TaskMessage:
    changed = _copy(message)
    changed.completed_at = now_s
    return changed


def as_failed(message: TaskMessage, *, error: str, now_s: int, spends_retry: bool) -> TaskMessage:
    """Return a copy that records the error of a run, and one more retry if the run spends one."""
    changed = _copy(message)
    changed.error_msg = clean_text(error)
    changed.last_failed_at = now_s
    if spends_retry:
        changed.retried += 1
    return changed


@lru_cache(maxsize=4)
def cancellation(*, now_s: int) -> bytes:
    """Return bytes that, appended to an encoded message, mark its task as cancelled.

    In protobuf a later occurrence of a field overrides an earlier one, so a script can change a message it cannot
    parse.
    """
    return TaskMessage(error_msg=CANCELED, last_failed_at=now_s).SerializeToString()


def restore_limits(message: TaskMessage, *, ttl_completed_s: int, active_timeout_s: int, retried: int) -> None:
    """Fill in what Go's workers drop from a message when they retry its task, given the copies in the task's hash."""
    message.retention = message.retention or min(ttl_completed_s, MAX_INT32)
    message.timeout = message.timeout or min(active_timeout_s, MAX_INT32)
    message.retried = max(message.retried, min(retried, MAX_INT32))


def run_deadline_s(message: TaskMessage, *, now_s: int) -> int:
    """Return the Unix s at which a run that starts now must end: the earlier of timeout and deadline."""
    ends = [now_s + message.timeout] if message.timeout > 0 else []
    if message.deadline:
        ends.append(message.deadline)
    return min(ends, default=now_s + DEFAULT_TIMEOUT_S)


def run_time_s(message: TaskMessage, *, now_ns: int) -> float:
    """Return the exact time limit in s of a run that starts now. `run_deadline_s` may be almost a second early."""
    timeout_s: float = message.timeout if message.timeout > 0 else DEFAULT_TIMEOUT_S
    if not message.deadline:
        return timeout_s
    remaining_s = message.deadline - now_ns / 1e9
    return min(remaining_s, timeout_s) if message.timeout > 0 else remaining_s


def clean_text(text: str) -> str:
    """Return valid UTF-8 short enough for a message. The start is cut off: the end of an error matters most."""
    data = text.encode("utf-8", "replace")
    if len(data) > ERROR_MAX_BYTES:
        data = b"... " + data[-ERROR_MAX_BYTES:]
    return data.decode("utf-8", "ignore")


def _copy(message: TaskMessage) -> TaskMessage:
    changed = TaskMessage()
    changed.CopyFrom(message)
    return changed

"""What a worker hears from Redis: work to do, a task cancelled, its queue's configuration changed."""

from enum import Enum, auto

from runqy.broker import keys
from runqy.broker.operation import Request
from runqy.broker.scripts import command


class Notice(Enum):
    """What a message to a worker is about."""

    WORK = auto()
    CANCELED = auto()
    CONFIGURATION = auto()
    GAP = auto()  # any of these may have been missed; said by the listener itself


def worker_channels(wake_token: str) -> tuple[str, ...]:
    """Return the channels that a worker listens on; the token is the one in its takes."""
    return keys.wake_channel(wake_token), keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL


def read_notice(channel: str, data: bytes) -> tuple[Notice, str]:
    """Return what a message is about, and the Redis queue, the task's id or the queue that it names."""
    subject = data.decode("utf-8", "replace")
    if channel == keys.CANCEL_CHANNEL:
        return Notice.CANCELED, subject
    return (Notice.CONFIGURATION if channel == keys.CHANGED_CHANNEL else Notice.WORK), subject


def read_queue_token(queue: str) -> Request[str | None]:
    """Return what changes with a queue's configuration; None when nothing is published."""
    read = command("HGET", keys.QUEUE_REVISIONS, queue, key=keys.QUEUE_REVISIONS)
    return Request((read,), lambda replies: None if replies[0] is None else replies[0].decode("utf-8", "replace"))

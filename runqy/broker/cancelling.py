"""Cancels tasks: at once where they wait, through their worker where they run."""

from collections.abc import Sequence
from enum import StrEnum

from runqy.broker import keys, timing
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.message import cancellation
from runqy.broker.operation import Request
from runqy.broker.scripts import script
from runqy.errors import TaskNotCancelable, TaskNotFound


class Cancellation(StrEnum):
    """What a wish to cancel a task led to."""

    CANCELED = "canceled"
    """It is archived and will not run; so it was if somebody had cancelled it before."""
    ASKED = "asked"
    """It runs; its worker is told and archives it."""
    OVER = "over"
    """It had ended already."""


def cancel(queue: str, task_id: str, *, now_ns: int) -> Request[Cancellation]:
    """Cancel a task of a Redis queue. Raises TaskNotFound, TaskNotCancelable."""
    now_s = now_ns // 1_000_000_000
    queue_keys = QueueKeys(queue)
    call = script("cancel")(
        task=queue_keys.task(task_id),
        pending=queue_keys.pending,
        scheduled=queue_keys.scheduled,
        retry=queue_keys.retry,
        archived=queue_keys.archived,
        id=task_id,
        now_ns=now_ns,
        now_s=now_s,
        cancellation=cancellation(now_s=now_s),
        task_prefix=queue_keys.task_prefix,
        oldest_s=now_s - timing.ARCHIVE_MAX_AGE_S,
        most=timing.ARCHIVE_MAX_TASKS,
        ended_channel=keys.ended_channel(task_id),
        cancel_channel=keys.CANCEL_CHANNEL,
    )
    return Request(commands=(call,), parse=_cancellation)


def _cancellation(replies: Sequence[Reply]) -> Cancellation:
    """Read the script's answer."""
    if replies[0] == 0:
        raise TaskNotFound
    if replies[0] == 4:
        raise TaskNotCancelable
    return (Cancellation.CANCELED, Cancellation.ASKED, Cancellation.OVER)[replies[0] - 1]

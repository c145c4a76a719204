"""Cancel tasks: waiting ones immediately, running ones through their worker."""

from collections.abc import Sequence
from enum import StrEnum

from runqy.broker import constants, keys
from runqy.broker.keys import QueueKeys
from runqy.broker.message import cancellation
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import command, script
from runqy.broker.states import TaskState
from runqy.broker.streams.run_log import make_details
from runqy.broker.tasks.lease import Lease
from runqy.errors import TaskNotCancelable, TaskNotFound


class Cancellation(StrEnum):
    """The outcome of a cancellation."""

    CANCELED = "canceled"
    """Archived, by this cancellation or an earlier one."""
    REQUESTED = "requested"
    """It is running: its worker was notified and will archive it."""
    REQUESTED_ELSEWHERE = "requested elsewhere"
    """It is running in a worker of another program, which may ignore cancellations: archived when that puts it back."""
    ALREADY_FINISHED = "already finished"


_OUTCOMES = {
    1: Cancellation.CANCELED,
    2: Cancellation.REQUESTED,
    3: Cancellation.ALREADY_FINISHED,
    5: Cancellation.REQUESTED_ELSEWHERE,
}


def cancel(
    queue: str,
    task_id: str,
    *,
    wanted: TaskState | None = None,
    now_ns: int,
    max_archived: int = constants.ARCHIVE_MAX_TASKS,
) -> Request[Cancellation]:
    """Cancel a task of a Redis queue, if it is in the state `wanted`; None: in any that allows it.

    Raise TaskNotFound, TaskNotCancelable.
    """
    now_s = now_ns // 1_000_000_000
    queue_keys = QueueKeys.of(queue)
    call = script("cancel")(
        task=queue_keys.task(task_id),
        pending=queue_keys.pending,
        scheduled=queue_keys.scheduled,
        retry=queue_keys.retry,
        archived=queue_keys.archived,
        runs=queue_keys.runs,
        counters=queue_keys.run_counters,
        cancellations=queue_keys.cancellations,
        id=task_id,
        wanted=wanted or "",
        now_ns=now_ns,
        now_s=now_s,
        cancellation=cancellation(now_s=now_s),
        task_prefix=queue_keys.task_prefix,
        oldest_s=now_s - constants.ARCHIVE_MAX_AGE_S,
        max_archived=max_archived,
        ended_channel=keys.ended_channel(task_id),
        cancel_channel=keys.CANCEL_CHANNEL,
        details=make_details(None),
        queue=queue,
        changed_channel=keys.CHANGED_CHANNEL,
        own_channel=keys.cancel_channel("*").split("*"),
    )
    return Request(commands=(call,), parse=_cancellation)


def read_marks(leases: Sequence[Lease]) -> Request[list[bool]]:
    """Return for each leased task whether runqy has cancelled it."""
    tasks = [QueueKeys.of(lease.queue).task(lease.task_id) for lease in leases]
    return Request(
        commands=tuple(command("HGET", task, "cancel", key=task) for task in tasks),
        parse=lambda replies: [reply is not None for reply in replies],
    )


def _cancellation(replies: Sequence[Reply]) -> Cancellation:
    if replies[0] == 0:
        raise TaskNotFound
    if replies[0] == 4:
        raise TaskNotCancelable
    return _OUTCOMES[replies[0]]

"""Archives tasks that waited in the pending list for longer than their queue allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from runqy.broker import keys as redis_keys
from runqy.broker import message as messages
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.numbers import read_number
from runqy.broker.operation import Request
from runqy.broker.scripts import script
from runqy.broker.sweeping import MAX_ROUNDS, run_each
from runqy.broker.timing import BATCH_MAX_TASKS

_SECONDS_BELOW = 10**12
"""A time below this is in seconds: Go's runqy-worker writes them where asynq writes nanoseconds."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task in the pending list, with the text of `pending_since` as it was seen (empty: unknown)."""

    task_id: str
    since: str

    @property
    def since_ns(self) -> int | None:
        """Return since when it waits, None if that is unknown."""
        since = read_number(self.since)
        if since is None:
            return None
        return since * 1_000_000_000 if since < _SECONDS_BELOW else since

    def has_waited_s(self, now_ns: int) -> float:
        """Return for how long it has waited; 0 if that is unknown."""
        return 0 if self.since_ns is None else (now_ns - self.since_ns) / 1e9


def list_waiting(queue: str, *, offset: int = 0, limit: int = BATCH_MAX_TASKS) -> Request[list[Waiting]]:
    """Look at a slice of a queue's pending list, the next to be taken first."""
    keys = QueueKeys(queue)
    look = script("list_waiting")(pending=keys.pending, task_prefix=keys.task_prefix, offset=offset, limit=limit)

    def parse(replies: Sequence[Reply]) -> list[Waiting]:
        return [Waiting(*(part.decode(errors="replace") for part in row)) for row in replies[0]]

    return Request((look,), parse)


def archive_waiting(queue: str, tasks: Sequence[Waiting], *, timeout_s: int, now_ns: int) -> Request[int]:
    """Archive those of the tasks that still wait as they were seen to, and tell how many. No attempt is counted."""
    keys = QueueKeys(queue)
    now_s = now_ns // 1_000_000_000
    error = f"waited in the queue for longer than its pending_timeout of {timeout_s} s"
    archive = script("archive_waiting")(
        pending=keys.pending,
        archived=keys.archived,
        tasks=[keys.task(task.task_id) for task in tasks],
        now_s=now_s,
        message_end=messages.encode(TaskMessage(error_msg=error, last_failed_at=now_s)),
        ended_prefix=redis_keys.ended_channel(""),
        lock_prefix=keys.lock_prefix,
        ids_and_since=[part for task in tasks for part in (task.task_id, task.since)],
    )
    return Request((archive,), lambda replies: int(replies[0]))


def archive_overdue(broker: Broker, timeouts_s: Mapping[str, int]) -> int:
    """Archive what waited for longer than the queues allow (0: any time), and tell how many tasks.

    Each pending list is read from its front, in slices, until one holds nothing that is overdue: it is almost in
    order of age. Slices that tell nothing, because another program wrote no times, are passed over.
    """
    offsets = {queue: 0 for queue, timeout_s in timeouts_s.items() if timeout_s > 0}
    archived = 0
    for _ in range(MAX_ROUNDS):
        if not offsets:
            break
        slices = run_each(
            broker,
            {queue: list_waiting(queue, offset=offset, limit=BATCH_MAX_TASKS) for queue, offset in offsets.items()},
        )
        now_ns = broker.now_ns()
        overdue = {queue: _overdue(tasks, timeouts_s[queue], now_ns) for queue, tasks in slices.items()}
        outcomes = run_each(
            broker,
            {
                queue: archive_waiting(queue, tasks, timeout_s=timeouts_s[queue], now_ns=now_ns)
                for queue, tasks in overdue.items()
                if tasks
            },
        )
        for queue, count in outcomes.items():
            archived += count
            _log.warning("tasks_waited_too_long", queue=queue, archived=count, pending_timeout_s=timeouts_s[queue])
        offsets = {
            queue: offsets[queue] + len(tasks) - outcomes.get(queue, 0)
            for queue, tasks in slices.items()
            if len(tasks) == BATCH_MAX_TASKS and (overdue[queue] or not _tells_time(tasks))
        }
    return archived


def _overdue(tasks: Sequence[Waiting], timeout_s: int, now_ns: int) -> list[Waiting]:
    """Return those that have waited too long."""
    return [task for task in tasks if task.has_waited_s(now_ns) > timeout_s]


def _tells_time(tasks: Sequence[Waiting]) -> bool:
    """Tell whether any of these says since when it waits."""
    return any(task.since_ns is not None for task in tasks)

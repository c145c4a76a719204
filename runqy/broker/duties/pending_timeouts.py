"""Archive tasks that were pending for longer than their queue allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from runqy.broker import keys as redis_keys
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.constants import BATCH_MAX_TASKS
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_time_ns
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import MAX_ROUNDS, run_requests
from runqy.broker.scripts import script
from runqy.broker.streams.run_log import make_details
from runqy.broker.tasks.archive_reasons import pending_timeout_error

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PendingTask:
    """A task in the pending list. `since` is the text of `pending_since` as it was read, empty if unknown."""

    task_id: str
    since: str

    @property
    def since_ns(self) -> int | None:
        return read_time_ns(self.since)

    def has_waited_s(self, now_ns: int) -> float:
        """Return for how long it has been pending; 0 if that is unknown."""
        return 0 if self.since_ns is None else (now_ns - self.since_ns) / 1e9


def list_pending(queue: str, *, offset: int = 0, limit: int = BATCH_MAX_TASKS) -> Request[list[PendingTask]]:
    """Return a slice of a queue's pending list, the next to be dequeued first."""
    keys = QueueKeys.of(queue)
    look = script("list_pending")(pending=keys.pending, task_prefix=keys.task_prefix, offset=offset, limit=limit)

    def parse(replies: Sequence[Reply]) -> list[PendingTask]:
        return [PendingTask(*(part.decode(errors="replace") for part in row)) for row in replies[0]]

    return Request((look,), parse)


def archive_timed_out(queue: str, tasks: Sequence[PendingTask], *, timeout_s: int, now_ns: int) -> Request[int]:
    """Archive those of the tasks that are unchanged and still pending; return how many. No attempt is counted."""
    keys = QueueKeys.of(queue)
    now_s = now_ns // 1_000_000_000
    error = pending_timeout_error(timeout_s)
    archive = script("archive_timed_out")(
        pending=keys.pending,
        archived=keys.archived,
        runs=keys.runs,
        counters=keys.run_counters,
        tasks=[keys.task(task.task_id) for task in tasks],
        now_s=now_s,
        message_end=TaskMessage(error_msg=error, last_failed_at=now_s).SerializeToString(),
        ended_prefix=redis_keys.ended_channel(""),
        lock_prefix=keys.lock_prefix,
        now_ns=now_ns,
        details=make_details(None, error=error),
        ids_and_since=[part for task in tasks for part in (task.task_id, task.since)],
    )
    return Request((archive,), lambda replies: int(replies[0]))


async def archive_all_timed_out(broker: AnyBroker, timeouts_s: Mapping[str, int]) -> int:
    """Archive tasks that were pending for longer than their queues allow (0: unlimited); return how many.

    A pending list is nearly in order of age. It is read from its front in slices, until a slice has no overdue task.
    Slices without any times, which other programs wrote, are skipped.
    """
    offsets = {queue: 0 for queue, timeout_s in timeouts_s.items() if timeout_s > 0}
    archived = 0
    for _ in range(MAX_ROUNDS):
        if not offsets:
            break
        slices = await run_requests(
            broker,
            {queue: list_pending(queue, offset=offset, limit=BATCH_MAX_TASKS) for queue, offset in offsets.items()},
        )
        now_ns = broker.now_ns()
        overdue = {queue: _overdue(tasks, timeouts_s[queue], now_ns) for queue, tasks in slices.items()}
        outcomes = await run_requests(
            broker,
            {
                queue: archive_timed_out(queue, tasks, timeout_s=timeouts_s[queue], now_ns=now_ns)
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
            if len(tasks) == BATCH_MAX_TASKS and (overdue[queue] or not _has_pending_since(tasks))
        }
    return archived


def _overdue(tasks: Sequence[PendingTask], timeout_s: int, now_ns: int) -> list[PendingTask]:
    return [task for task in tasks if task.has_waited_s(now_ns) > timeout_s]


def _has_pending_since(tasks: Sequence[PendingTask]) -> bool:
    return any(task.since_ns is not None for task in tasks)

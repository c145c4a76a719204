"""Counts the tasks of queues and reads their counters."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.numbers import read_number
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """How many tasks a Redis queue holds in each state, and how many attempts it has seen."""

    queue: str
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    aggregating: int
    is_paused: bool
    processed_today: int
    """Attempts of this UTC day, failed ones included."""
    failed_today: int
    processed: int
    failed: int
    latency_s: float
    """How long the oldest pending task has been waiting."""

    @property
    def size(self) -> int:
        """Return how many tasks there are."""
        waiting = self.pending + self.scheduled + self.retry + self.aggregating
        return waiting + self.active + self.archived + self.completed


def count_tasks(queues: Sequence[str], *, now_ns: int) -> Request[list[QueueCounts]]:
    """Count the tasks of Redis queues, in one round trip; a queue that does not exist has zeros.

    So has one of which a worker gave a key another type: it must not hide the other queues.
    """
    return Request(
        commands=tuple(_call(QueueKeys(queue), now_ns // 1_000_000_000) for queue in queues),
        parse=lambda replies: [
            _counts(queue, reply or _NOTHING, now_ns) for queue, reply in zip(queues, replies, strict=True)
        ],
        tolerates_wrong_types=True,
    )


def known_queues() -> Request[list[str]]:
    """Return the names of all Redis queues that ever had a task, in order."""
    return Request(
        commands=(command("SMEMBERS", keys.QUEUES, key=keys.QUEUES),),
        parse=lambda replies: sorted(name.decode("utf-8", "replace") for name in replies[0]),
    )


def _call(queue: QueueKeys, now_s: int) -> Command:
    """Return the script call for one queue."""
    day = keys.counter_day(now_s)
    return script("counts")(
        pending=queue.pending,
        active=queue.active,
        scheduled=queue.scheduled,
        retry=queue.retry,
        archived=queue.archived,
        completed=queue.completed,
        groups=queue.groups,
        paused=queue.paused,
        processed_day=queue.processed_on(day),
        failed_day=queue.failed_on(day),
        processed=queue.processed,
        failed=queue.failed,
        task_prefix=queue.task_prefix,
        group_prefix=queue.group(""),
    )


_NOTHING: Reply = (*[0] * 8, *[b""] * 5)
"""What the script replies for a queue that does not exist."""


def _counts(queue: str, reply: Reply, now_ns: int) -> QueueCounts:
    """Read one queue's reply."""
    pending, active, scheduled, retry, archived, completed, aggregating, is_paused, *counters, since = reply
    processed_today, failed_today, processed, failed = (read_number(counter) or 0 for counter in counters)
    since_ns = read_number(since)
    return QueueCounts(
        queue=queue,
        pending=pending,
        active=active,
        scheduled=scheduled,
        retry=retry,
        archived=archived,
        completed=completed,
        aggregating=aggregating,
        is_paused=bool(is_paused),
        processed_today=processed_today,
        failed_today=failed_today,
        processed=processed,
        failed=failed,
        latency_s=0.0 if since_ns is None else max(now_ns - since_ns, 0) / 1e9,
    )

"""Count the tasks of queues, and read their counters and daily history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number, read_time_ns
from runqy.broker.request import Request
from runqy.broker.scripts import Command, command, script


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """The number of tasks of a Redis queue by state, and its attempts."""

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
    """Attempts of this UTC day, including failed ones."""
    failed_today: int
    processed: int
    failed: int
    latency_s: float
    """How long the oldest pending task has been waiting."""
    ends: int = 0
    """The number of ends of tasks that wait to be told to webhooks and batches."""

    @property
    def waiting(self) -> int:
        """The number of tasks that still have to run, including those in asynq's groups."""
        return self.pending + self.scheduled + self.retry + self.aggregating

    @property
    def size(self) -> int:
        return self.waiting + self.active + self.archived + self.completed


def count_tasks(queues: Sequence[str], *, now_ns: int) -> Request[list[QueueCounts]]:
    """Count the tasks of Redis queues in one round trip. A queue that does not exist has zeros.

    So does a queue with a key of the wrong type, which must not hide the others.
    """
    return Request(
        commands=tuple(_call(QueueKeys.of(queue), now_ns // 1_000_000_000) for queue in queues),
        parse=lambda replies: [
            _parse_counts(queue, reply or _EMPTY_REPLY, now_ns) for queue, reply in zip(queues, replies, strict=True)
        ],
        tolerates_wrong_types=True,
    )


MAX_QUEUE_NAME_LENGTH = 255
_INVALID_IN_NAMES = {"{", "}", "\0", "\ufffd"}
"""Braces would change the slot of the queue's keys. U+FFFD stands for bytes that are not UTF-8."""


def read_queue_names() -> Request[list[str]]:
    """Return the names of all Redis queues that ever had a task, sorted, without invalid ones of other programs."""
    return Request(
        commands=(command("SMEMBERS", keys.QUEUES, key=keys.QUEUES),),
        parse=lambda replies: sorted(filter(_is_valid_name, (name.decode("utf-8", "replace") for name in replies[0]))),
    )


def _is_valid_name(name: str) -> bool:
    return 0 < len(name) <= MAX_QUEUE_NAME_LENGTH and not _INVALID_IN_NAMES & {*name}


def _call(queue: QueueKeys, now_s: int) -> Command:
    day = keys.counter_day(now_s)
    return script("count_tasks")(
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
        ends=queue.ends,
        task_prefix=queue.task_prefix,
        group_prefix=queue.group(""),
    )


_EMPTY_REPLY: Reply = (*[0] * 8, *[b""] * 5, 0)  # as the script replies for a queue that does not exist


def _parse_counts(queue: str, reply: Reply, now_ns: int) -> QueueCounts:
    pending, active, scheduled, retry, archived, completed, aggregating, is_paused, *counters, since, ends = reply
    processed_today, failed_today, processed, failed = (read_number(counter) or 0 for counter in counters)
    since_ns = read_time_ns(since)
    return QueueCounts(
        queue=queue,
        ends=ends,
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


_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCounts:
    """The finished attempts of one UTC day."""

    date: str
    processed: int
    """Including failed ones."""
    failed: int


def read_history(queue: str, *, days: int, now_ns: int) -> Request[list[DayCounts]]:
    """Return the counters of the last days of a Redis queue, today first. They are kept for 90 days."""
    queue_keys, now_s = QueueKeys.of(queue), now_ns // 1_000_000_000
    dates = [keys.counter_day(now_s - back * _DAY_S) for back in range(days)]
    counters = [*map(queue_keys.processed_on, dates), *map(queue_keys.failed_on, dates)]

    def parse(replies: Sequence[Reply]) -> list[DayCounts]:
        counts = [read_number(count) or 0 for count in replies[0]]
        pairs = zip(dates, counts[:days], counts[days:], strict=True)
        return [DayCounts(date=date, processed=processed, failed=failed) for date, processed, failed in pairs]

    return Request((command("MGET", *counters, key=counters[0]),), parse)

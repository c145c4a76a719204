"""Estimates what queues take of Redis's memory, and tells how they did day by day."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys as redis_keys
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.numbers import read_number
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, command, script

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The attempts of one UTC day."""

    date: str
    processed: int
    """Failed ones included."""
    failed: int


def estimate_memory(queues: Sequence[str]) -> Request[list[int]]:
    """Estimate the bytes that the tasks of Redis queues take, from a sample (contract 3.26), in one round trip.

    0 for a queue of which a worker gave a key another type.
    """
    return Request(
        commands=tuple(_call(QueueKeys(queue)) for queue in queues),
        parse=lambda replies: [reply or 0 for reply in replies],
        tolerates_wrong_types=True,
    )


def read_history(queue: str, *, days: int, now_ns: int) -> Request[list[Day]]:
    """Return the last days of a Redis queue, today first; at most 90 are kept."""
    keys, now_s = QueueKeys(queue), now_ns // 1_000_000_000
    dates = [redis_keys.counter_day(now_s - back * _DAY_S) for back in range(days)]
    counters = [*map(keys.processed_on, dates), *map(keys.failed_on, dates)]

    def parse(replies: Sequence[Reply]) -> list[Day]:
        counts = [read_number(count) or 0 for count in replies[0]]
        pairs = zip(dates, counts[:days], counts[days:], strict=True)
        return [Day(date=date, processed=processed, failed=failed) for date, processed, failed in pairs]

    return Request((command("MGET", *counters, key=counters[0]),), parse)


def _call(keys: QueueKeys) -> Command:
    """Return the script call for one queue."""
    return script("memory")(
        active=keys.active,
        pending=keys.pending,
        scheduled=keys.scheduled,
        retry=keys.retry,
        archived=keys.archived,
        completed=keys.completed,
        groups=keys.groups,
        task_prefix=keys.task_prefix,
        group_prefix=keys.group(""),
    )

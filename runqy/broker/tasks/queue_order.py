"""The order in which a worker tries its queues, by their priorities."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWeight:
    """A Redis queue that a worker serves, and its weight."""

    queue: str
    priority: int = 1


def order_queues(priorities: Sequence[int], count: int, *, is_strict: bool) -> tuple[tuple[int, ...], ...]:
    """Return for each slot the indexes of the queues in the order in which it tries them."""
    positions = range(len(priorities))
    if len(priorities) == 1:
        return ((0,),) * count
    if is_strict:
        return (tuple(sorted(positions, key=lambda i: -priorities[i])),) * count
    return tuple(tuple(sorted(positions, key=lambda i: _draw_order(priorities[i]))) for _ in range(count))


def _draw_order(priority: int) -> float:
    """Draw a random sort key. The probability that a queue comes first is its share of the sum of priorities.

    asynq shuffles a list in which each queue stands as often as its priority; this has the same distribution without
    the list.
    """
    return random.expovariate(max(priority, 1))

"""Divide the attempts that a process makes at once among targets."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True, slots=True, kw_only=True)
class DueTarget:
    """A target that something may be sent to now."""

    target: str
    maker: str
    """The key or user that created the endpoint; without one, the queue."""
    limit: int
    """How many of its messages are in flight at once, in all processes."""
    is_alerts: bool
    """Whether it is sent alerts and test messages."""


class Pool:
    """Attempts at once. No maker has more than a quarter of them. The last tenth is reserved for targets that have
    none, and half of it for makers that have none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._by_target, self._by_maker = Counter[str](), Counter[str]()

    def add(self, target: DueTarget) -> None:
        self._by_target[target.target] += 1
        self._by_maker[target.maker] += 1

    def remove(self, target: DueTarget) -> None:
        for counts, name in ((self._by_target, target.target), (self._by_maker, target.maker)):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]

    def allot(
        self, targets: Iterable[DueTarget], get_limit: Callable[[DueTarget], int], *, at_most: int
    ) -> dict[DueTarget, int]:
        """Return how many attempts each target may begin. The maker with the fewest in flight is next, and of its
        targets the one with the fewest.
        """
        used = self._by_target.total()
        if used >= self._size:
            return {}
        by_maker: dict[str, list[tuple[int, float, DueTarget]]] = defaultdict(list)
        for each in targets:  # with a random number, so that nobody is always the first
            by_maker[each.maker].append((self._by_target[each.target], random.random(), each))  # noqa: S311
        for queue in by_maker.values():
            heapify(queue)
        makers = [(self._by_maker[maker], random.random(), maker) for maker in by_maker]  # noqa: S311
        heapify(makers)
        allotted = Counter[DueTarget]()
        while makers and used < self._size and allotted.total() < at_most:
            of_maker, order, maker = heappop(makers)
            queue = by_maker[maker]
            if of_maker >= max(self._size // 4, 1) or not queue:
                continue
            count, place, target = heappop(queue)
            left = self._size - used
            if (count and left <= self._size // 10) or (of_maker and left <= self._size // 20):
                continue  # all others of this maker have at least as many
            if count < get_limit(target):
                allotted[target] += 1
                used, of_maker = used + 1, of_maker + 1
                heappush(queue, (count + 1, place, target))
            heappush(makers, (of_maker, order, maker))
        return dict(allotted)

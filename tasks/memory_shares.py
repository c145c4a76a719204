"""Measure which queues hold more than their share of Redis's memory, for enqueueing and for workers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from queues.catalog import QueueCatalog
from queues.definitions import Limits
from runqy import clock
from runqy.broker.constants import LARGE_RESULT_BYTES
from runqy.broker.health import check_nodes
from runqy.broker.memory import MemoryReading, MemoryUse, estimate_memory, read_memory, store_over_share
from runqy.broker.request import AnyBroker, raise_error

_PAUSE = 20
"""The pause after a measurement, as a multiple of its duration: with many queues a measurement keeps Redis busy."""


class MemoryShareMeter:
    """Stores which Redis queues hold more than their share, and removes those that no longer do."""

    def __init__(self) -> None:
        self._due_s = float("-inf")
        self._stored: frozenset[str] = frozenset()

    async def measure(self, broker: AnyBroker, queues: Sequence[str], catalog: QueueCatalog | None) -> None:
        """Measure, unless the pause after the last measurement has not ended. Raise BrokerUnavailable."""
        began_s = clock.monotonic_s()
        if began_s < self._due_s:
            return
        shares = {queue: _share_of(queue, catalog) for queue in queues}
        found = await _find_over_share(broker, shares) if await _may_exceed(broker, shares) else {}
        if found or self._stored:
            await broker.send(store_over_share(found, no_longer=self._stored - found.keys()))
        self._stored = frozenset(found)
        self._due_s = clock.monotonic_s() + _PAUSE * (clock.monotonic_s() - began_s)


def _share_of(queue: str, catalog: QueueCatalog | None) -> tuple[str, float]:
    """Return the queue that a Redis queue belongs to, and that queue's share as a fraction."""
    resolved = catalog.find(queue) if catalog else None
    limits = resolved.queue.limits if resolved else Limits()
    return resolved.queue.name if resolved else queue, limits.max_memory_share / 100


async def _may_exceed(broker: AnyBroker, shares: dict[str, tuple[str, float]]) -> bool:
    # Estimates are costly, and while less memory is used than the smallest share, no queue can exceed its own.
    use = max(node.memory.use for node in await check_nodes(broker))
    return any(share < use for _, share in shares.values())


async def _find_over_share(broker: AnyBroker, shares: dict[str, tuple[str, float]]) -> Mapping[str, int]:
    """Return the Redis queues that hold more than their share while others have tasks, and the largest result in bytes
    that each may still store.
    """
    sizes = dict(zip(shares, await broker.send(estimate_memory(list(shares))), strict=True))
    held: dict[str, int] = defaultdict(int)
    for queue, (owner, _) in shares.items():
        # In a cluster the Redis queues of a queue are on different servers, and each has the whole share.
        held[queue if broker.is_cluster else owner] += sizes[queue]
    readings, found = await _read_servers(broker, list(shares)), dict[str, int]()
    for queue, (owner, share) in shares.items():
        own, memory = held[queue if broker.is_cluster else owner], readings[queue]
        if memory.max_bytes and own > share * memory.max_bytes and sum(held.values()) > own:
            # What is left below SHARED_USE; small results are always stored.
            left = int(MemoryUse.SHARED_USE * memory.max_bytes) - memory.used_bytes
            found[queue] = max(left, LARGE_RESULT_BYTES)
    return found


async def _read_servers(broker: AnyBroker, queues: Sequence[str]) -> dict[str, MemoryReading]:
    if not broker.is_cluster:
        return dict.fromkeys(queues, await broker.send(read_memory(queues[0])))
    return dict(
        zip(queues, map(raise_error, await broker.send_all([read_memory(queue) for queue in queues])), strict=True)
    )

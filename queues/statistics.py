"""What can be known about the traffic of queues."""

from collections.abc import Iterable
from dataclasses import dataclass

from queues.names import AllowedQueues
from queues.places import QueuePlace, get_place, list_places
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.broker.heartbeats import find_workers
from runqy.broker.measuring import Day, estimate_memory, read_history
from runqy.broker.pausing import Pause, find_pause

__all__ = [
    "HISTORY_DAYS",
    "QueueDetail",
    "QueueStatus",
    "find_deploying_workers",
    "find_unserved",
    "get_queue_detail",
    "list_queues",
]

HISTORY_DAYS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """A Redis queue at a glance."""

    place: QueuePlace
    counts: QueueCounts
    memory_bytes: int
    """Estimated from a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDetail(QueueStatus):
    """A Redis queue with its pause, history and workers."""

    pause: Pause | None
    """None: it is not paused."""
    history: list[Day]
    """Today first."""
    workers: list[str]
    """Ids of the workers that serve it."""


def list_queues(broker: Broker, *, allowed_queues: AllowedQueues = None) -> list[QueueStatus]:
    """Return all Redis queues with their counts, in three round trips however many there are.

    Raises BrokerUnavailable.
    """
    places = list_places(broker, allowed_queues=allowed_queues)
    return _statuses(broker, places) if places else []


def get_queue_detail(broker: Broker, name: str, *, allowed_queues: AllowedQueues = None) -> QueueDetail:
    """Return a Redis queue by any spelling of its name. Raises QueueNotFound, BrokerUnavailable."""
    place = get_place(broker, name, allowed_queues=allowed_queues)
    queue = place.redis_queue
    status = _statuses(broker, [place])[0]
    return QueueDetail(
        place=place,
        counts=status.counts,
        memory_bytes=status.memory_bytes,
        pause=broker.run(find_pause(queue)),
        history=broker.run(read_history(queue, days=HISTORY_DAYS, now_ns=broker.now_ns())),
        workers=sorted(record.worker_id for record in find_workers(broker) if queue in record.redis_queues),
    )


def find_unserved(broker: Broker, names: Iterable[str]) -> list[str]:
    """Return the Redis queues of some queues, by their own names, that no live worker serves.

    Raises BrokerUnavailable.
    """
    now_s = broker.now_s()
    served = {queue for record in find_workers(broker) if not record.is_stale(now_s) for queue in record.redis_queues}
    catalog = get_fresh_catalog(max_age_s=0)
    found = [queue for queue in map(catalog.find_queue, names) if queue is not None and queue.is_enabled]
    asked = [redis_queue for queue in found for redis_queue, _ in queue.redis_queues(catalog.separator)]
    return [redis_queue for redis_queue in asked if redis_queue not in served]


def find_deploying_workers(broker: Broker, queue: str) -> list[str]:
    """Return the ids of the live workers that follow what is asked for a queue, which Go's do not.

    Raises BrokerUnavailable.
    """
    now_s = broker.now_s()
    records = [record for record in find_workers(broker) if record.queue == queue and not record.is_foreign]
    return sorted(record.worker_id for record in records if not record.is_stale(now_s))


def _statuses(broker: Broker, places: list[QueuePlace]) -> list[QueueStatus]:
    """Count and measure some Redis queues."""
    names = [place.redis_queue for place in places]
    counts = broker.run(count_tasks(names, now_ns=broker.now_ns()))
    sizes = broker.run(estimate_memory(names))
    return [
        QueueStatus(place=place, counts=count, memory_bytes=size)
        for place, count, size in zip(places, counts, sizes, strict=True)
    ]

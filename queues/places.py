"""Finds the Redis queues that people mean, those included that no definition names any more."""

from dataclasses import dataclass

from queues.definitions import QueueDefinition
from queues.names import AllowedQueues
from queues.queries import get_fresh_catalog, resolve_queue
from runqy.broker.broker import Broker
from runqy.broker.counting import known_queues
from runqy.errors import QueueNotFound

__all__ = ["QueuePlace", "get_place", "list_places"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """A Redis queue, and the queue that it is, or is a part of."""

    redis_queue: str
    queue: QueueDefinition | None = None
    """None: only Redis knows it; another producer made it, or its definition was deleted."""
    priority: int | None = None

    @property
    def parent(self) -> str | None:
        """Return the name of the queue that this is a sub-queue of."""
        return self.queue.name if self.queue and self.queue.sub_queues else None

    @property
    def is_defined(self) -> bool:
        return self.queue is not None

    @property
    def is_enabled(self) -> bool:
        """Return whether it takes tasks."""
        return self.queue is not None and self.queue.is_enabled


def get_place(broker: Broker, name: str, *, allowed_queues: AllowedQueues = None) -> QueuePlace:
    """Return the Redis queue that a name means in any spelling; no round trip where it is defined.

    Raises QueueNotFound.
    """
    try:
        resolved = resolve_queue(name, allowed_queues=allowed_queues)
    except QueueNotFound:
        if allowed_queues is None and name in broker.run(known_queues()):
            return QueuePlace(redis_queue=name)
        raise
    return QueuePlace(redis_queue=resolved.redis_queue, queue=resolved.queue, priority=resolved.priority)


def list_places(broker: Broker, *, allowed_queues: AllowedQueues = None) -> list[QueuePlace]:
    """Return all Redis queues: first those that are defined, then those that only Redis knows, each part by name."""
    catalog = get_fresh_catalog(max_age_s=0)  # people look for what another process has just saved
    places = [
        QueuePlace(redis_queue=redis_queue, queue=queue, priority=priority)
        for queue in catalog.definitions
        if allowed_queues is None or queue.name in allowed_queues
        for redis_queue, priority in queue.redis_queues(catalog.separator)
    ]
    if allowed_queues is not None:
        return places
    defined = {place.redis_queue for place in places}
    return places + [QueuePlace(redis_queue=name) for name in broker.run(known_queues()) if name not in defined]

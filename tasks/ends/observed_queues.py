"""The queues in which the end of a task may concern anybody: only these are searched for ends of foreign programs."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from queues.catalog import QueueCatalog

F = TypeVar("F", bound=Callable[[], Collection[str]])

_finders: list[Callable[[], Collection[str]]] = []


def register_observed_queues(find: F) -> F:
    """Register a function that returns names of queues, because something waits for the ends of their tasks.

    A decorator. Queues that a webhook endpoint covers, or that allow webhooks of tasks, are known without one.
    """
    _finders.append(find)
    return find


def list_observed_queues(queues: Sequence[str], catalog: QueueCatalog | None) -> list[str]:
    """Return those of some Redis queues whose ends may concern anybody. Raise DatabaseError."""
    if catalog is None:
        return []
    waited_for = {name for find in _finders for name in find()}

    def is_observed(redis_queue: str) -> bool:
        resolved = catalog.find_redis_queue(redis_queue)
        if resolved is None:
            return False
        queue = resolved.queue
        return queue.notify.endpoints or bool(queue.webhook_hosts) or queue.name in waited_for

    return [redis_queue for redis_queue in queues if is_observed(redis_queue)]

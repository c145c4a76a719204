"""Owns the names of queues: what people may write, and which Redis queue each spelling means."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from queues.definitions import DEFAULT_SUB_QUEUE, QueueDefinition, QueueFacts
from runqy.errors import QueueNotFound

__all__ = [
    "AllowedQueues",
    "QueueCatalog",
    "QueueDefinition",
    "ResolvedQueue",
    "claimed_names",
    "find_collision",
    "name_redis_queues",
    "spellings",
]

AllowedQueues: TypeAlias = frozenset[str] | None
"""The queues, by their own names, that a caller may use; None: all."""

SEPARATORS = ("_", ".")
"""All that are understood on input; a setting says which one stands in Redis."""

_NAMES_IN_AN_ERROR = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedQueue:
    """What a name on input means."""

    queue: QueueDefinition
    redis_queue: str
    priority: int


NamedQueue: TypeAlias = tuple[ResolvedQueue, tuple[str, ...]]
"""A Redis queue, and every name that means it."""


class QueueCatalog:
    """All queues, found by any spelling of their names. Immutable; names are looked up, never split."""

    def __init__(
        self,
        definitions: Iterable[QueueDefinition],
        *,
        separator: str,
        revisions: Mapping[str, str] | None = None,
        named: Mapping[str, Sequence["NamedQueue"]] | None = None,
    ) -> None:
        """Take the definitions, and for each queue the token that changes with its configuration.

        `named`: what `name_redis_queues` returns for queues, where that is known from an earlier catalog.
        """
        self.definitions = tuple(sorted(definitions, key=lambda queue: queue.name))
        self.separator = separator
        self._revisions = revisions or {}
        self._queues = {queue.name: queue for queue in self.definitions}
        self._resolved: dict[str, ResolvedQueue] = {}
        self._redis_queues: list[str] = []
        named = named or {}
        for queue in self.definitions:
            for resolved, names in named.get(queue.name) or name_redis_queues(queue, separator):
                self._redis_queues.append(resolved.redis_queue)
                for name in names:
                    self._resolved.setdefault(name, resolved)

    def resolve(self, name: str, *, allowed_queues: AllowedQueues = None) -> ResolvedQueue:
        """Return the Redis queue that a name means.

        Raises QueueNotFound with the valid names.
        """
        resolved = self._resolved.get(name)
        if resolved is None or not _is_allowed(resolved.queue, allowed_queues):
            raise QueueNotFound(self._what_is_valid(name, allowed_queues))
        return resolved

    def find(self, name: str) -> ResolvedQueue | None:
        """Return the Redis queue that a name means, or None."""
        return self._resolved.get(name)

    def find_queue(self, name: str) -> QueueDefinition | None:
        """Return the queue with this own name, or None."""
        return self._queues.get(name)

    def get_queue(self, name: str, *, allowed_queues: AllowedQueues = None) -> QueueDefinition:
        """Return the queue that a name means as a whole or in part. Raises QueueNotFound."""
        queue = self._queues.get(name)
        if queue is not None and _is_allowed(queue, allowed_queues):
            return queue
        return self.resolve(name, allowed_queues=allowed_queues).queue

    def for_worker(
        self, name: str, *, allowed_queues: AllowedQueues = None
    ) -> tuple[QueueDefinition, list[tuple[str, int]]]:
        """Return a queue and the Redis queues, with priorities, that a worker registering for this name serves.

        A queue's own name means all its sub-queues, a sub-queue's only that one. Raises QueueNotFound.
        """
        queue = self._queues.get(name)
        if queue is not None and _is_allowed(queue, allowed_queues):
            return queue, queue.redis_queues(self.separator)
        resolved = self.resolve(name, allowed_queues=allowed_queues)
        return resolved.queue, [(resolved.redis_queue, resolved.priority)]

    def redis_queues(self) -> Sequence[str]:
        """Return the names of all Redis queues, in order of the queues' names."""
        return self._redis_queues

    def queue_revision(self, name: str) -> str:
        """Return the token that changes with the configuration of a queue, its vaults' included; empty: unknown."""
        return self._revisions.get(name, "")

    def _what_is_valid(self, name: str, allowed_queues: AllowedQueues) -> str:
        """Return the message of a QueueNotFound."""
        allowed = [queue for queue in self.definitions if _is_allowed(queue, allowed_queues)]
        names = [redis_queue for queue in allowed for redis_queue, _ in queue.redis_queues(self.separator)]
        if not names:
            return f"No queue {name[:128]!r}: there are no queues yet."
        shown = ", ".join(names[:_NAMES_IN_AN_ERROR])
        more = f" and {len(names) - _NAMES_IN_AN_ERROR} more" if len(names) > _NAMES_IN_AN_ERROR else ""
        return f"No queue {name[:128]!r}. Valid names: {shown}{more}."


def name_redis_queues(queue: QueueDefinition, separator: str) -> list[NamedQueue]:
    """Return the Redis queues of a queue, each with the names that mean it."""
    return [
        (ResolvedQueue(queue=queue, redis_queue=redis_queue, priority=priority), names)
        for (redis_queue, priority), names in zip(queue.redis_queues(separator), spellings(queue), strict=True)
    ]


def spellings(queue: QueueFacts) -> Iterator[tuple[str, ...]]:
    """Give for each Redis queue of a queue, in their order, every name that means it."""
    if not queue.sub_queues:
        yield (queue.name, *(f"{queue.name}{mark}{DEFAULT_SUB_QUEUE}" for mark in SEPARATORS))
    for sub in queue.sub_queues:
        own = (queue.name,) if sub.name == DEFAULT_SUB_QUEUE else ()
        yield (*own, *(f"{queue.name}{mark}{sub.name}" for mark in SEPARATORS))


def claimed_names(queue: str, sub_queues: Iterable[str]) -> set[str]:
    """Return every name that a queue with these sub-queues claims.

    All spellings count, whatever separator is set, so that a name has one meaning and the setting can be changed.
    """
    subs = list(sub_queues) or [DEFAULT_SUB_QUEUE]
    return {queue, *(f"{queue}{mark}{sub}" for mark in SEPARATORS for sub in subs)}


def find_collision(queues: Iterable[QueueFacts]) -> tuple[str, str, str] | None:
    """Return two queues that claim one name, and that name, or None."""
    owners: dict[str, str] = {}
    for queue in queues:
        for name in sorted(claimed_names(queue.name, [sub.name for sub in queue.sub_queues])):
            if owners.setdefault(name, queue.name) != queue.name:
                return owners[name], queue.name, name
    return None


def _is_allowed(queue: QueueFacts, allowed_queues: AllowedQueues) -> bool:
    """Tell whether a queue is one of those a search is limited to."""
    return allowed_queues is None or queue.name in allowed_queues

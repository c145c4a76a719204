"""The names of queues, and the Redis queue that each name and alias means."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from queues.definitions import QueueBase, QueueDefinition
from runqy.core.formats.names import DEFAULT_SUB_QUEUE, SEPARATORS, aliases_of
from runqy.errors import QueueNotFound

AllowedQueues: TypeAlias = frozenset[str] | None
"""The names of the queues that a client may use; None allows all."""

_NAMES_IN_ERROR_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisQueue:
    """A Redis queue, and the definition that it belongs to."""

    redis_queue: str
    queue: QueueDefinition | None = None
    """None if it exists only in Redis: another producer created it, or its definition was deleted."""
    priority: int | None = None

    @property
    def parent(self) -> str | None:
        """The name of the queue whose sub-queue this is; None for a queue without sub-queues."""
        return self.queue.name if self.queue and self.queue.sub_queues else None

    @property
    def is_defined(self) -> bool:
        return self.queue is not None

    @property
    def is_enabled(self) -> bool:
        return self.queue is not None and self.queue.is_enabled


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedQueue(RedisQueue):
    """The Redis queue that a name in a request means."""

    queue: QueueDefinition
    priority: int


class QueueCatalog:
    """All queues by their names and aliases. Immutable; names are looked up, never split."""

    def __init__(
        self,
        definitions: Iterable[QueueDefinition],
        *,
        separator: str,
        revisions: Mapping[str, str] | None = None,
        existing: Mapping[str, Container[str]] | None = None,
    ) -> None:
        """Index the definitions.

        `revisions` has the revision of each queue, `existing` the Redis queues that exist under names of a queue.
        """
        self.definitions = tuple(sorted(definitions, key=lambda queue: queue.name))
        self.separator = separator
        self._revisions = revisions or {}
        self._queues = {queue.name: queue for queue in self.definitions}
        self._names: dict[str, ResolvedQueue] = {}
        self._redis_queues: dict[str, list[ResolvedQueue]] = {}
        for queue in self.definitions:
            found = _name_redis_queues(queue, separator, (existing or {}).get(queue.name, ()))
            self._redis_queues[queue.name] = [resolved for resolved, _ in found]
            for resolved, names in found:
                for name in names:
                    self._names.setdefault(name, resolved)

    def resolve(self, name: str, *, allowed_queues: AllowedQueues = None) -> ResolvedQueue:
        """Return the Redis queue that a name means.

        Raise QueueNotFound with the valid names.
        """
        resolved = self._names.get(name)
        if resolved is None or not _is_allowed(resolved.queue, allowed_queues):
            raise QueueNotFound(self._not_found_message(name, allowed_queues))
        return resolved

    def find(self, name: str) -> ResolvedQueue | None:
        return self._names.get(name)

    def find_redis_queue(self, name: str) -> ResolvedQueue | None:
        """Return the Redis queue with exactly this name, which is no alias, or None."""
        resolved = self._names.get(name)
        return resolved if resolved is not None and resolved.redis_queue == name else None

    def find_queue(self, name: str) -> QueueDefinition | None:
        """Return the queue with this name, which is not that of a sub-queue, or None."""
        return self._queues.get(name)

    def get_queue(self, name: str, *, allowed_queues: AllowedQueues = None) -> QueueDefinition:
        """Return the queue with this name, or with a sub-queue of this name. Raise QueueNotFound."""
        queue = self._queues.get(name)
        if queue is not None and _is_allowed(queue, allowed_queues):
            return queue
        return self.resolve(name, allowed_queues=allowed_queues).queue

    def for_worker(
        self, name: str, *, allowed_queues: AllowedQueues = None
    ) -> tuple[QueueDefinition, list[tuple[str, int]]]:
        """Return a queue, and the Redis queues, with priorities, that a worker registered for this name serves.

        A queue's own name means all its sub-queues; the name of a sub-queue means only that one. Raise QueueNotFound.
        """
        queue = self._queues.get(name)
        if queue is not None and _is_allowed(queue, allowed_queues):
            return queue, self.redis_queues_of(queue)
        resolved = self.resolve(name, allowed_queues=allowed_queues)
        return resolved.queue, [(resolved.redis_queue, resolved.priority)]

    def all_redis_queues(self) -> Iterator[ResolvedQueue]:
        for redis_queues in self._redis_queues.values():
            yield from redis_queues

    def redis_queues(self) -> list[str]:
        return [each.redis_queue for each in self.all_redis_queues()]

    def redis_queues_of(self, queue: QueueBase) -> list[tuple[str, int]]:
        """Return the Redis queues of a queue, including those that exist under an alias, with their priorities."""
        if (found := self._redis_queues.get(queue.name)) is None:
            return queue.redis_queues(self.separator)
        return [(each.redis_queue, each.priority) for each in found]

    def queue_revision(self, name: str) -> str:
        """Return the revision of a queue's configuration and vaults, which grows with each change; empty if unknown."""
        return self._revisions.get(name, "")

    def _not_found_message(self, name: str, allowed_queues: AllowedQueues) -> str:
        queue = self._queues.get(name)
        if queue is not None and _is_allowed(queue, allowed_queues):
            subs = ", ".join(redis_queue for redis_queue, _ in queue.redis_queues(self.separator))
            return f"The queue {name!r} has sub-queues; name one: {subs}."
        allowed = [queue for queue in self.definitions if _is_allowed(queue, allowed_queues)]
        names = [redis_queue for queue in allowed for redis_queue, _ in queue.redis_queues(self.separator)]
        if not names:
            return f"No queue {name[:128]!r}: there are no queues yet."
        listed = ", ".join(names[:_NAMES_IN_ERROR_MAX])
        more = f" and {len(names) - _NAMES_IN_ERROR_MAX} more" if len(names) > _NAMES_IN_ERROR_MAX else ""
        return f"No queue {name[:128]!r}. Valid names: {listed}{more}."


def _name_redis_queues(
    queue: QueueDefinition, separator: str, existing: Container[str]
) -> list[tuple[ResolvedQueue, tuple[str, ...]]]:
    """Return the Redis queues of a queue, each with the names that mean it.

    If a Redis queue exists under an alias, the alias means that one, and workers serve it too. A queue's own name
    always means the Redis queue that its definition names.
    """
    found: list[tuple[ResolvedQueue, tuple[str, ...]]] = []
    others: list[tuple[ResolvedQueue, tuple[str, ...]]] = []
    for (redis_queue, priority), names in zip(
        queue.redis_queues(separator), aliases_by_redis_queue(queue), strict=True
    ):
        aliases = [name for name in names if name != redis_queue and name in existing]
        meant = tuple(name for name in names if name not in aliases or name == queue.name)
        found.append((ResolvedQueue(queue=queue, redis_queue=redis_queue, priority=priority), meant))
        for alias in aliases:
            resolved = ResolvedQueue(queue=queue, redis_queue=alias, priority=priority)
            others.append((resolved, () if alias == queue.name else (alias,)))
    return found + others


def aliases_by_redis_queue(queue: QueueBase) -> Iterator[tuple[str, ...]]:
    """Yield the names of each Redis queue of a queue, in order."""
    if not queue.sub_queues:
        yield (queue.name, *(f"{queue.name}{mark}{DEFAULT_SUB_QUEUE}" for mark in SEPARATORS))
    for sub in queue.sub_queues:
        own = (queue.name,) if sub.name == DEFAULT_SUB_QUEUE else ()
        yield (*own, *(f"{queue.name}{mark}{sub.name}" for mark in SEPARATORS))


class NameOwners:
    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}

    def add(self, queue: str, sub_queues: Iterable[str]) -> None:
        """Add a queue's names, in place of those that it had."""
        for name in self._names.pop(queue, ()):
            del self._owners[name]
        self._names[queue] = aliases_of(queue, sub_queues)
        self._owners |= dict.fromkeys(self._names[queue], queue)

    def find_collision(self, queue: str, sub_queues: Iterable[str]) -> tuple[str, str] | None:
        """Return another queue that has a name of this one, and that name, or None."""
        for name in sorted(aliases_of(queue, sub_queues)):
            if (owner := self._owners.get(name, queue)) != queue:
                return owner, name
        return None


def find_name_collision(queues: Iterable[QueueBase]) -> tuple[str, str, str] | None:
    """Return two queues that have a name in common, and that name, or None."""
    owners = NameOwners()
    for queue in queues:
        subs = [sub.name for sub in queue.sub_queues]
        if found := owners.find_collision(queue.name, subs):
            other, name = found
            return other, queue.name, name
        owners.add(queue.name, subs)
    return None


def _is_allowed(queue: QueueBase, allowed_queues: AllowedQueues) -> bool:
    return allowed_queues is None or queue.name in allowed_queues

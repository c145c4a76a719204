"""Move the ends of tasks from the streams of Redis queues to their consumers, which write them to the database.

Only queues in which the end of a task may concern anybody are searched for ends of foreign programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from queues.catalog import QueueCatalog
from runqy.broker.broker import Broker
from runqy.broker.queues.deletion import forget_unread_ends, read_unread_ends
from runqy.broker.scanning import run_requests
from runqy.broker.streams.ends import EndEntry, TaskEnd, delete_ends, read_ends
from runqy.maintenance.failed_rows import RowFailures
from runqy.maintenance.streams import move_in_turns
from tasks.transactions import BatchSize, store_or_drop, write_transaction

log = structlog.get_logger(__name__)


def list_observed_queues(queues: Sequence[str], catalog: QueueCatalog | None) -> list[str]:
    """Return those of some Redis queues whose ends may concern anybody. Raise DatabaseError."""
    if catalog is None:
        return []
    waited_for = {name for consumer in _consumers for name in consumer.list_queues()}

    def is_observed(redis_queue: str) -> bool:
        resolved = catalog.find_redis_queue(redis_queue)
        if resolved is None:
            return False
        queue = resolved.queue
        return queue.notify.endpoints or bool(queue.webhook_hosts) or queue.name in waited_for

    return [redis_queue for redis_queue in queues if is_observed(redis_queue)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedEnd:
    """An end, and where it was read. A worker of the Redis queue may have forged it."""

    end: TaskEnd
    entry_id: str
    """Of the stream. Entries of a stream are in the order of `position`."""
    redis_queue: str
    queue: str
    """The name of the queue that the Redis queue belongs to, or belonged to."""

    @property
    def position(self) -> str:
        """A text that is greater for later entries."""
        milliseconds, _, number = self.entry_id.partition("-")
        return f"{int(milliseconds):020d}-{int(number):020d}"


@dataclass(frozen=True, slots=True)
class Consumer:
    """What is told of ends."""

    prepare: Callable[[Sequence[CollectedEnd]], Callable[[], None]]
    """Reads from Redis what it needs about ends, and returns what writes them to the database.

    It is called before the transaction, which on SQLite keeps all others from writing; what it returns is called in it,
    before the entries are removed from Redis. It is called again with ends that it has seen, also by another process at
    the same time: unique keys tell them apart.
    """
    list_queues: Callable[[], Collection[str]] = tuple
    """Returns names of queues whose ends it waits for, besides those that a webhook endpoint covers or that allow
    webhooks of tasks.
    """


_consumers: list[Consumer] = []
_failures = RowFailures("end")


def register_consumer(consumer: Consumer) -> None:
    _consumers.append(consumer)


@dataclass(slots=True)
class EndsCollector:
    """Moves the ends of all queues to their consumers."""

    batch_size: BatchSize = field(default_factory=BatchSize)

    def collect_all(self, broker: Broker, queues: Sequence[str], catalog: QueueCatalog | None) -> set[str]:
        """Move ends on; return the Redis queues whose streams were read to their end, as they were at the call.

        Raise BrokerUnavailable, DatabaseError: the entries stay in Redis.
        """
        _failures.begin_pass()
        deleted = broker.run(read_unread_ends())
        read_through = set[str]()

        def move(some: Sequence[str], limit: int) -> list[str]:
            has_more = self._collect(broker, some, catalog, deleted, limit=limit)
            read_through.update(queue for queue, more in has_more.items() if not more)
            return [queue for queue, more in has_more.items() if more]

        move_in_turns([*queues, *deleted], move)
        forgotten = read_through & deleted.keys() - {*queues}
        if forgotten:
            broker.run(forget_unread_ends(sorted(forgotten)))
        return read_through

    def _collect(
        self,
        broker: Broker,
        queues: Sequence[str],
        catalog: QueueCatalog | None,
        deleted: Mapping[str, str],
        *,
        limit: int,
    ) -> Mapping[str, bool]:
        """Move the oldest ends of some queues on; return of each whether it may have more.

        A queue whose stream cannot be read is left out, and so is one where ends stay that cannot be consumed: a worker
        may have written what no consumer expects.
        """
        paused = Counter(key.rpartition(" ")[0] for key in _failures.list_known())
        limits = {queue: limit + paused[queue] for queue in queues}
        pages = broker.run(run_requests(broker, {queue: read_ends(queue, limit=limits[queue]) for queue in queues}))
        has_more = dict[str, bool]()
        for queue, page in pages.items():
            consumed = self._consume(queue, find_parent(queue, catalog, deleted), page) if page else []
            if consumed:
                # After the commit, so that a process that is killed in between loses nothing.
                broker.run(delete_ends(queue, consumed))
            if len(page) >= limits[queue] or len(consumed) == len(page):
                has_more[queue] = len(page) >= limits[queue]
        return has_more

    def _consume(self, redis_queue: str, queue: str, page: Sequence[EndEntry]) -> list[str]:
        """Move entries on; return the ids of those that are not needed any more."""
        invalid = sum(entry.end is None for entry in page)
        if invalid:
            log.warning("ends_invalid", queue=redis_queue, count=invalid)
        ends = [
            CollectedEnd(end=entry.end, entry_id=entry.id, redis_queue=redis_queue, queue=queue)
            for entry in page
            if entry.end is not None
        ]
        consumed = [entry.id for entry in page if entry.end is None]

        def consume(part: Sequence[CollectedEnd]) -> None:
            store_or_drop(part, self._consume_part, _drop)
            consumed.extend(each.entry_id for each in part)

        while ends:  # the size adapts from part to part
            part, ends = ends[: self.batch_size.value], ends[self.batch_size.value :]
            _failures.handle(part, consume, describe=_describe)
        return consumed

    def _consume_part(self, ends: Sequence[CollectedEnd]) -> int:
        writes = [consumer.prepare(ends) for consumer in _consumers]
        with write_transaction() as written:
            for write in writes:
                write()
        self.batch_size.adapt(len(ends), written.held_s)
        return len(ends)


def _describe(collected: CollectedEnd) -> tuple[str, str, str]:
    return f"{collected.redis_queue} {collected.entry_id}", f"of task {collected.end.task_id}", collected.queue


def _drop(refused: CollectedEnd, error: Exception) -> None:
    log.error("end_not_stored", queue=refused.redis_queue, task_id=refused.end.task_id, error=str(error))


def find_parent(redis_queue: str, catalog: QueueCatalog | None, deleted: Mapping[str, str]) -> str:
    """Return the name of the queue that a Redis queue belongs to; of one that belongs to none, its own."""
    resolved = catalog.find_redis_queue(redis_queue) if catalog else None
    return resolved.queue.name if resolved else deleted.get(redis_queue, redis_queue)

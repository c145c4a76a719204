"""Move tasks between Redis queues: on request, and to the current name of a renamed queue."""

from collections.abc import Mapping

import structlog
from django.conf import settings
from django.db import transaction

from queues.catalog import QueueCatalog
from queues.existing_queues import list_existing_queues
from queues.models import QueueMove
from queues.queries import get_fresh_catalog
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.queues.idempotency_moves import move_idempotency_records
from runqy.broker.queues.move_claims import count_claims
from runqy.broker.queues.moving import finish_claims, move_tasks
from runqy.broker.queues.renaming import close_moved_queue, move_pause
from runqy.broker.queues.stats import count_tasks
from runqy.errors import QueueInvalid, QueueNotFound

__all__ = ["list_moves", "move_records", "request_move", "run_moves"]

TASKS_PER_TICK = 5_000
"""How many tasks of each Redis queue one call of `run_moves` moves."""

log = structlog.get_logger()


def request_move(broker: Broker, *, source: str, destination: str) -> QueueMove:
    """Request that maintenance moves all tasks of an undefined Redis queue to a defined one.

    `destination` is any name of a queue or sub-queue. A later request replaces an earlier one. Raise QueueNotFound,
    QueueInvalid if the source is defined, BrokerUnavailable.
    """
    catalog = get_fresh_catalog(max_age_s=0)
    target = catalog.resolve(destination).redis_queue
    if source in _defined(catalog):
        raise QueueInvalid(f"{source} belongs to a defined queue; only tasks of other Redis queues can be moved.")
    if source not in list_existing_queues(broker):
        raise QueueNotFound(f"No queue {source[:128]!r} exists in Redis.")
    if source == target:
        raise QueueInvalid(f"{destination} means {source} itself.")
    with transaction.atomic():
        move, _ = QueueMove.objects.update_or_create(source=source, defaults={"destination": target})
        changes = {"destination": (None, target)}
        record(action="queue.move_requested", object_kind="queue", object_name=source, changes=changes)
    return move


def list_moves() -> dict[str, str]:
    """Return the destination of each Redis queue that is being moved."""
    return dict(QueueMove.objects.values_list("source", "destination"))


def run_moves(broker: Broker) -> None:
    """Continue all moves, bounded for each Redis queue. Raise BrokerUnavailable, BrokerFull."""
    catalog = get_fresh_catalog()
    existing = list_existing_queues(broker)
    requested, renamed = list_moves(), _renamed(catalog)
    for source in broker.run(count_claims([*existing, *(renamed.keys() - {*existing})])):
        if count := finish_claims(broker, source):
            log.info("move_resumed", queue=source, tasks=count)
    for source, destination in _with_tasks(broker, renamed, existing).items():
        _rename(broker, source, destination)
    for source, destination in requested.items():
        if source not in renamed:
            _move(broker, source, destination, catalog)


def move_records(broker: Broker) -> bool:
    """Move the idempotency records of renamed Redis queues; return whether there was one to look for.

    It scans all keys, so it is called once a process. Raise BrokerUnavailable.
    """
    existing = {*list_existing_queues(broker)}
    renamed = {source: name for source, name in _renamed(get_fresh_catalog()).items() if source in existing}
    if renamed:
        log.info("idempotency_records_moved", count=move_idempotency_records(broker, renamed))
    return bool(renamed)


def _defined(catalog: QueueCatalog) -> set[str]:
    """Return the Redis queues that definitions name."""
    return {name for queue in catalog.definitions for name, _ in queue.redis_queues(catalog.separator)}


def _renamed(catalog: QueueCatalog) -> dict[str, str]:
    """Return by their former names the Redis queues that an earlier release named after their queue."""
    defined = _defined(catalog)
    return {
        queue.name: redis_queue
        for queue in catalog.definitions
        for redis_queue, _ in queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)
        if not queue.sub_queues and queue.name not in defined
    }


def _with_tasks(broker: Broker, renamed: Mapping[str, str], existing: list[str]) -> dict[str, str]:
    """Return the former names under which a Redis queue exists, also one that a producer added to unlisted."""
    counts = broker.run(count_tasks([*renamed], now_ns=broker.now_ns())) if renamed else []
    return {count.queue: renamed[count.queue] for count in counts if count.size or count.queue in existing}


def _rename(broker: Broker, source: str, destination: str) -> None:
    """Move everything of a Redis queue to its new name, and drop it when it is empty."""
    broker.run(move_pause(source, destination))
    moved = move_tasks(broker, source, destination, limit=TASKS_PER_TICK)
    is_closed = broker.run(close_moved_queue(source, destination))
    if moved or is_closed:
        log.info("queue_renamed", queue=source, destination=destination, tasks=moved, is_complete=is_closed)


def _move(broker: Broker, source: str, destination: str, catalog: QueueCatalog) -> None:
    """Continue a requested move, and delete it when no task is left or its destination is gone."""
    if destination not in catalog.redis_queues():
        log.warning("move_stopped", queue=source, destination=destination, reason="destination_deleted")
    else:
        moved = move_tasks(broker, source, destination, limit=TASKS_PER_TICK)
        (counts,) = broker.run(count_tasks([source], now_ns=broker.now_ns()))
        if counts.size or broker.run(count_claims([source])):
            return
        log.info("queue_moved", queue=source, destination=destination, tasks=moved)
    QueueMove.objects.filter(source=source, destination=destination).delete()

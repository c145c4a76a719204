"""The Redis queues that exist: publish those of each queue, and find those that no definition names."""

from collections.abc import Container
from dataclasses import dataclass

import msgspec
from django.conf import settings

from queues.catalog import QueueCatalog, aliases_by_redis_queue
from queues.definitions import DEFAULT_SUB_QUEUE, QueueBase
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import QueueCounts, count_tasks, read_queue_names
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.operations import configuration_change
from runqy.config_sync.snapshot import Snapshot, current_snapshot
from runqy.json_decoding import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class UndefinedQueue:
    """A Redis queue that no definition names, so that no worker serves it."""

    name: str
    counts: QueueCounts


def find_undefined_queues(broker: Broker) -> list[UndefinedQueue]:
    """Return the Redis queues with tasks that no definition names, in two round trips. Raise BrokerUnavailable."""
    defined = {*get_fresh_catalog().redis_queues()}
    names = [name for name in list_existing_queues(broker) if name not in defined]
    counts = broker.run(count_tasks(names, now_ns=broker.now_ns())) if names else []
    return [UndefinedQueue(name=count.queue, counts=count) for count in counts if count.size]


def suggest_definition(redis_queue: str) -> tuple[str, str]:
    """Return the name of a queue, and of its sub-queue if it needs one, whose definition names a Redis queue."""
    queue, _, sub_queue = redis_queue.rpartition(".")
    if settings.RUNQY_SUBQUEUE_SEPARATOR != "." or not queue or not sub_queue:
        return redis_queue, ""
    return queue, "" if sub_queue == DEFAULT_SUB_QUEUE else sub_queue


def list_existing_queues(broker: Broker) -> list[str]:
    """Return the names of all Redis queues. Raise BrokerUnavailable."""
    return broker.run(read_queue_names())


def publish_existing_queues(broker: Broker) -> None:
    """Publish which Redis queues each queue has, where that differs from what is published. Raise BrokerUnavailable.

    Workers serve all of them. A queue that vanished is not worth a restart of their children.
    """
    existing = {*list_existing_queues(broker)}
    catalog = get_fresh_catalog(max_age_s=0)
    if not _differing(catalog, current_snapshot(), existing):
        return
    with configuration_change() as change:
        for queue, names in _differing(catalog, current_snapshot(), existing):
            notify_workers = not {*names} <= {*_published(current_snapshot(), queue)}
            change.put(DocumentKind.REDIS_QUEUES, queue.name, msgspec.json.encode(names), notify_workers=notify_workers)


def _differing(
    catalog: QueueCatalog, snapshot: Snapshot, existing: Container[str]
) -> list[tuple[QueueBase, list[str]]]:
    """Return the queues whose Redis queues differ from the published ones."""
    found = ((queue, _redis_queues(queue, existing)) for queue in catalog.definitions)
    return [(queue, names) for queue, names in found if names != _published(snapshot, queue)]


def _redis_queues(queue: QueueBase, existing: Container[str]) -> list[str]:
    """Return the Redis queues of a queue: those that it defines, then those that exist under another of its names."""
    aliases = sorted(name for names in aliases_by_redis_queue(queue) for name in names if name in existing)
    return list(dict.fromkeys([*_defined(queue), *aliases]))


def _defined(queue: QueueBase) -> list[str]:
    return [name for name, _ in queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)]


def _published(snapshot: Snapshot, queue: QueueBase) -> list[str]:
    """Return the published Redis queues of a queue: those that it defines if no document names others."""
    document = snapshot.find(DocumentKind.REDIS_QUEUES, queue.name)
    return read_json(document.body, list[str]) if document and document.body else _defined(queue)

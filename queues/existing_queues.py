"""The Redis queues that exist: publish those of each queue, and find those without a definition."""

from collections.abc import Container

import msgspec
from django.conf import settings

from queues.catalog import QueueCatalog, aliases_by_redis_queue
from queues.definitions import QueueBase
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import QueueCounts, count_tasks, read_queue_names
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import configuration_change
from runqy.configuration.snapshot import Snapshot, current_snapshot
from runqy.core.formats.json_decoding import read_json
from runqy.core.formats.names import DEFAULT_SUB_QUEUE


def find_undefined_queues(broker: Broker) -> list[QueueCounts]:
    """Return the counts of Redis queues that have tasks but no definition, so that no worker serves them.

    Two round trips. Raise BrokerUnavailable.
    """
    defined = {*get_fresh_catalog().redis_queues()}
    names = [name for name in broker.run(read_queue_names()) if name not in defined]
    counts = broker.run(count_tasks(names, now_ns=broker.now_ns())) if names else []
    return [count for count in counts if count.size]


def suggest_definition(redis_queue: str) -> tuple[str, str]:
    """Return the names of a queue and, or empty, of its sub-queue whose definition would name this Redis queue."""
    queue, _, sub_queue = redis_queue.rpartition(".")
    if settings.RUNQY_SUBQUEUE_SEPARATOR != "." or not queue or not sub_queue:
        return redis_queue, ""
    return queue, "" if sub_queue == DEFAULT_SUB_QUEUE else sub_queue


def publish_existing_queues(broker: Broker) -> None:
    """Publish the Redis queues of each queue, so that workers serve all of them. Raise BrokerUnavailable."""
    existing = {*broker.run(read_queue_names())}
    catalog = get_fresh_catalog(max_age_s=0)
    if not _differing(catalog, current_snapshot(), existing):
        return
    # Compared again under the lock of all changes, which is not taken as long as nothing differs.
    with configuration_change() as change:
        for queue, names in _differing(catalog, current_snapshot(), existing):
            # A Redis queue that vanished is not worth a restart of the workers' children.
            notify_workers = not {*names} <= {*_published(current_snapshot(), queue)}
            change.put(DocumentKind.REDIS_QUEUES, queue.name, msgspec.json.encode(names), notify_workers=notify_workers)


def _differing(
    catalog: QueueCatalog, snapshot: Snapshot, existing: Container[str]
) -> list[tuple[QueueBase, list[str]]]:
    found = ((queue, _redis_queues(queue, existing)) for queue in catalog.definitions)
    return [(queue, names) for queue, names in found if names != _published(snapshot, queue)]


def _redis_queues(queue: QueueBase, existing: Container[str]) -> list[str]:
    """Return the Redis queues that a queue defines, then those that exist under another of its names."""
    aliases = sorted(name for names in aliases_by_redis_queue(queue) for name in names if name in existing)
    return list(dict.fromkeys([*_defined(queue), *aliases]))


def _defined(queue: QueueBase) -> list[str]:
    return [name for name, _ in queue.redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)]


def _published(snapshot: Snapshot, queue: QueueBase) -> list[str]:
    """Return the published Redis queues of a queue. Without a document they are those that it defines."""
    document = snapshot.find(DocumentKind.REDIS_QUEUES, queue.name)
    return read_json(document.body, list[str]) if document and document.body else _defined(queue)

"""Gives the Redis queues that maintenance looks after, with their limits."""

from __future__ import annotations

from collections.abc import Iterable

from queues.names import QueueCatalog
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.counting import known_queues
from runqy.broker.timing import ARCHIVE_MAX_AGE_S
from runqy.errors import ConfigurationUnavailable


def served_queues(broker: Broker) -> list[str]:
    """Return every Redis queue that is configured or ever had a task. Raises BrokerUnavailable."""
    return _names(broker, _find_catalog())


def archived_ttls_s(broker: Broker) -> dict[str, int]:
    """Return for each Redis queue how long archived tasks are kept; as asynq does for those not configured."""
    catalog = _find_catalog()
    return {name: _ttl_archived_s(catalog, name) for name in _names(broker, catalog)}


def pending_timeouts_s() -> dict[str, int]:
    """Return for each configured Redis queue how long a task may wait; those without a limit are left out."""
    catalog = _find_catalog()
    resolved = [catalog.resolve(name) for name in catalog.redis_queues()] if catalog else []
    return {r.redis_queue: r.queue.limits.pending_timeout_s for r in resolved if r.queue.limits.pending_timeout_s > 0}


def _find_catalog() -> QueueCatalog | None:
    """Return the catalog, None while it cannot be had: tasks are moved on all the same."""
    try:
        return get_fresh_catalog()
    except ConfigurationUnavailable:
        return None


def _names(broker: Broker, catalog: QueueCatalog | None) -> list[str]:
    """Return the names of all Redis queues that can be ours; others may have written to the set of names."""
    configured: Iterable[str] = catalog.redis_queues() if catalog else ()
    known = [name for name in broker.run(known_queues()) if name and not {"{", "}", "\ufffd"} & {*name}]
    return list(dict.fromkeys([*configured, *known]))


def _ttl_archived_s(catalog: QueueCatalog | None, name: str) -> int:
    """Return how long a Redis queue keeps archived tasks."""
    resolved = catalog.find(name) if catalog else None
    return resolved.queue.limits.ttl_archived_s if resolved else ARCHIVE_MAX_AGE_S

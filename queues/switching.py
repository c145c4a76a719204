"""Stops queues from handing out tasks and lets them go on, because somebody says so."""

from django.db import transaction

from queues.places import get_place
from queues.queries import get_catalog
from runqy.audit.actors import current_actor
from runqy.audit.operations import record
from runqy.broker.broker import Broker, Request, raised
from runqy.broker.pausing import pause, unpause

__all__ = ["pause_queue", "pause_whole_queue", "unpause_queue", "unpause_whole_queue"]


def pause_queue(broker: Broker, *, name: str, among: frozenset[str] | None = None) -> str:
    """Let a queue hand out no more tasks, and return its name in Redis; a paused one stays paused by whoever did it.

    `among` are the queues, by their own names, that exist for whoever asks; None: all.
    Raises QueueNotFound, BrokerUnavailable.
    """
    queue = get_place(broker, name, among=among).redis_queue
    _switch(broker, [queue], is_paused=True)
    return queue


def unpause_queue(broker: Broker, *, name: str, among: frozenset[str] | None = None) -> str:
    """Let a queue hand out tasks again, and return its name in Redis. Raises QueueNotFound, BrokerUnavailable."""
    queue = get_place(broker, name, among=among).redis_queue
    _switch(broker, [queue], is_paused=False)
    return queue


def pause_whole_queue(broker: Broker, *, name: str) -> list[str]:
    """Pause all sub-queues of a queue, and return the Redis queues that were not. Raises as `pause_queue`."""
    return _switch(broker, _parts(name), is_paused=True)


def unpause_whole_queue(broker: Broker, *, name: str) -> list[str]:
    """Let all sub-queues of a queue go on, and return the Redis queues that were paused. Raises as `pause_queue`."""
    return _switch(broker, _parts(name), is_paused=False)


def _parts(name: str) -> list[str]:
    """Return the Redis queues of a queue that is meant by its own name."""
    catalog = get_catalog()
    return [redis_queue for redis_queue, _ in catalog.get_queue(name).redis_queues(catalog.separator)]


def _switch(broker: Broker, queues: list[str], *, is_paused: bool) -> list[str]:
    """Pause Redis queues or let them go on, in one round trip, and record those that this changed."""
    outcomes = broker.run_all([_request(broker, queue, is_paused=is_paused) for queue in queues])
    changed = [queue for queue, has_changed in zip(queues, outcomes, strict=True) if has_changed is True]
    action, changes = "queue.paused" if is_paused else "queue.unpaused", {"paused": (not is_paused, is_paused)}
    with transaction.atomic():
        for queue in changed:
            record(action=action, object_kind="queue", object_name=queue, changes=changes)
    for outcome in outcomes:
        raised(outcome)
    return changed


def _request(broker: Broker, queue: str, *, is_paused: bool) -> Request[bool]:
    """Return the request that pauses a Redis queue or lets it go on."""
    if is_paused:
        return pause(queue, now_ns=broker.now_ns(), by=current_actor().name)
    return unpause(queue, now_ns=broker.now_ns())

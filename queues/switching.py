"""Stops queues from handing out tasks and lets them go on, because somebody says so."""

from django.db import transaction

from queues.places import get_place
from runqy.audit.actors import current_actor
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.pausing import pause, unpause

__all__ = ["pause_queue", "unpause_queue"]


def pause_queue(broker: Broker, *, name: str, among: frozenset[str] | None = None) -> str:
    """Let a queue hand out no more tasks, and return its name in Redis; a paused one stays paused by whoever did it.

    `among` are the queues, by their own names, that exist for whoever asks; None: all.
    Raises QueueNotFound, BrokerUnavailable.
    """
    queue = get_place(broker, name, among=among).redis_queue
    with transaction.atomic():
        if broker.run(pause(queue, now_ns=broker.now_ns(), by=current_actor().name)):
            record(action="queue.paused", object_kind="queue", object_name=queue, changes={"paused": (False, True)})
    return queue


def unpause_queue(broker: Broker, *, name: str, among: frozenset[str] | None = None) -> str:
    """Let a queue hand out tasks again, and return its name in Redis. Raises QueueNotFound, BrokerUnavailable."""
    queue = get_place(broker, name, among=among).redis_queue
    with transaction.atomic():
        if broker.run(unpause(queue, now_ns=broker.now_ns())):
            record(action="queue.unpaused", object_kind="queue", object_name=queue, changes={"paused": (True, False)})
    return queue

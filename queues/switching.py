"""Stops queues from handing out tasks and lets them go on, because somebody says so."""

from contextlib import AbstractContextManager, ExitStack
from functools import partial

from queues.names import AllowedQueues
from queues.places import get_place
from queues.queries import get_catalog, with_fresh_catalog
from runqy.audit.actors import current_actor
from runqy.audit.operations import Announcement, announced
from runqy.broker.broker import Broker
from runqy.broker.operation import Request, raise_error
from runqy.broker.pausing import find_pause, pause, unpause
from runqy.errors import RunqyError

__all__ = ["pause_queue", "pause_whole_queue", "unpause_queue", "unpause_whole_queue"]


def pause_queue(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> str:
    """Let a queue hand out no more tasks, and return its name in Redis; a paused one stays paused by whoever did it.

    Raises QueueNotFound, BrokerUnavailable.
    """
    queue = get_place(broker, name, allowed_queues=allowed_queues).redis_queue
    _switch(broker, [queue], is_paused=True)
    return queue


def unpause_queue(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> str:
    """Let a queue hand out tasks again, and return its name in Redis. Raises QueueNotFound, BrokerUnavailable."""
    queue = get_place(broker, name, allowed_queues=allowed_queues).redis_queue
    _switch(broker, [queue], is_paused=False)
    return queue


def pause_whole_queue(broker: Broker, *, name: str) -> list[str]:
    """Pause all sub-queues of a queue, and return the Redis queues that were not. Raises as `pause_queue`."""
    return _switch(broker, with_fresh_catalog(partial(_parts, name)), is_paused=True)


def unpause_whole_queue(broker: Broker, *, name: str) -> list[str]:
    """Let all sub-queues of a queue go on, and return the Redis queues that were paused. Raises as `pause_queue`."""
    return _switch(broker, with_fresh_catalog(partial(_parts, name)), is_paused=False)


def _parts(queue: str) -> list[str]:
    """Return the Redis queues of a queue that is meant by its own name."""
    catalog = get_catalog()
    return [name for name, _ in catalog.get_queue(queue).redis_queues(catalog.separator)]


def _switch(broker: Broker, queues: list[str], *, is_paused: bool) -> list[str]:
    """Pause Redis queues or let them go on, those that are not so, in one round trip; return which it changed."""
    pauses = [raise_error(outcome) for outcome in broker.run_all([find_pause(queue) for queue in queues])]
    due = [queue for queue, found in zip(queues, pauses, strict=True) if (found is not None) != is_paused]
    with ExitStack() as stack:
        announcements = [stack.enter_context(_announced(queue, is_paused=is_paused)) for queue in due]
        outcomes = broker.run_all([_request(broker, queue, is_paused=is_paused) for queue in due])
    for announcement, outcome in zip(announcements, outcomes, strict=True):
        if outcome is not True:
            announcement.amend(outcome.code if isinstance(outcome, RunqyError) else "it was so already")
    return [queue for queue, outcome in zip(due, outcomes, strict=True) if raise_error(outcome)]


def _announced(queue: str, *, is_paused: bool) -> AbstractContextManager[Announcement]:
    """Record that a Redis queue is about to be paused, or let go on."""
    action, changes = "queue.paused" if is_paused else "queue.unpaused", {"paused": (not is_paused, is_paused)}
    return announced(action=action, object_kind="queue", object_name=queue, changes=changes)


def _request(broker: Broker, queue: str, *, is_paused: bool) -> Request[bool]:
    """Return the request that pauses a Redis queue or lets it go on."""
    if is_paused:
        return pause(queue, now_ns=broker.now_ns(), by=current_actor().name)
    return unpause(queue, now_ns=broker.now_ns())

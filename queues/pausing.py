"""Pause and unpause Redis queues. A paused queue accepts tasks, but workers get none."""

from functools import partial

from queues.catalog import AllowedQueues
from queues.queries import get_catalog, resolve_redis_queue, with_fresh_catalog
from runqy.audit.actors import current_actor
from runqy.audit.operations import record_all_in_redis
from runqy.broker.broker import Broker
from runqy.broker.queues.pausing import find_pause, pause, unpause
from runqy.broker.request import raise_error


def pause_queue(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> str:
    """Pause a Redis queue, and return its name. Pausing it again keeps the first actor and time.

    Raise QueueNotFound, BrokerUnavailable.
    """
    queue = resolve_redis_queue(broker, name, allowed_queues=allowed_queues).redis_queue
    _set_paused(broker, [queue], is_paused=True)
    return queue


def unpause_queue(broker: Broker, *, name: str, allowed_queues: AllowedQueues = None) -> str:
    """Unpause a Redis queue, and return its name. Raise QueueNotFound, BrokerUnavailable."""
    queue = resolve_redis_queue(broker, name, allowed_queues=allowed_queues).redis_queue
    _set_paused(broker, [queue], is_paused=False)
    return queue


def pause_whole_queue(broker: Broker, *, name: str) -> list[str]:
    """Pause all sub-queues of a queue, and return those that were not paused. Raise as `pause_queue`."""
    return _set_paused(broker, with_fresh_catalog(partial(_redis_queues_of, name)), is_paused=True)


def unpause_whole_queue(broker: Broker, *, name: str) -> list[str]:
    """Unpause all sub-queues of a queue, and return those that were paused. Raise as `pause_queue`."""
    return _set_paused(broker, with_fresh_catalog(partial(_redis_queues_of, name)), is_paused=False)


def _redis_queues_of(queue: str) -> list[str]:
    catalog = get_catalog()
    return [name for name, _ in catalog.redis_queues_of(catalog.get_queue(queue))]


def _set_paused(broker: Broker, queues: list[str], *, is_paused: bool) -> list[str]:
    """Pause or unpause Redis queues in three round trips, and return those that this changed."""
    pauses = [raise_error(outcome) for outcome in broker.run_all([find_pause(queue) for queue in queues])]
    changing = [queue for queue, found in zip(queues, pauses, strict=True) if (found is not None) != is_paused]
    action = "queue.paused" if is_paused else "queue.unpaused"
    # Before the change, so that none is unrecorded.
    record_all_in_redis(
        action=action, object_kind="queue", object_names=changing, changes={"paused": (not is_paused, is_paused)}
    )
    now_ns, by = broker.now_ns(), current_actor().name
    requests = [
        pause(queue, now_ns=now_ns, by=by) if is_paused else unpause(queue, now_ns=now_ns) for queue in changing
    ]
    return [queue for queue, outcome in zip(changing, broker.run_all(requests), strict=True) if raise_error(outcome)]

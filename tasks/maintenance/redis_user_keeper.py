"""Duty: keep the Redis users of workers on every server, and delete those whose workers or keys are gone."""

from queues.queries import get_fresh_catalog
from runqy.accounts.redis_users import RedisUserReconciler
from runqy.broker.broker import Broker
from runqy.errors import ConfigurationUnavailable
from runqy.publication.snapshot import MAX_AGE_S


class RedisUserKeeper:
    """Creates users that Redis lost by a restart or failover, before their workers give up."""

    name = "redis_user_keeper"
    interval_s = 1.0

    def __init__(self) -> None:
        self._reconciler = RedisUserReconciler(has_redis_queue=_has_redis_queue)

    def run_tick(self, broker: Broker) -> None:
        """Compare and correct."""
        self._reconciler.run(broker)


def _has_redis_queue(queue: str, redis_queue: str) -> bool:
    """Return whether a queue has a Redis queue; a catalog without it is compared with Redis before it is believed."""
    try:
        return any(
            (resolved := get_fresh_catalog(age_s).find(redis_queue)) is not None and resolved.queue.name == queue
            for age_s in (MAX_AGE_S, 0)
        )
    except ConfigurationUnavailable:
        return True

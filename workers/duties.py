"""The maintenance duties of workers."""

from queues.queries import get_fresh_catalog
from runqy.accounts.worker_credentials import RedisUserReconciler
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import read_worker_records, store_served_queues
from runqy.configuration.snapshot import MAX_AGE_S
from runqy.errors import ConfigurationUnavailable
from runqy.maintenance.base import RedisDuty, register


@register
class RedisUserReconciliation:
    """Recreates Redis users of workers that a restart or failover of Redis lost. Deletes those no longer needed."""

    name = "redis_user_reconciliation"
    interval_s = 1.0

    def __init__(self) -> None:
        self._reconciler = RedisUserReconciler(has_redis_queue=_has_redis_queue)

    def run_tick(self, broker: Broker) -> None:
        self._reconciler.run(broker)


@register
class ServedQueues(RedisDuty):
    """Stores which Redis queues live workers serve. Web processes read this once a second while they enqueue."""

    name = "served_queues"
    interval_s = 2.0

    async def run(self, broker: Broker) -> None:
        now_s = broker.now_s()
        live = [record for record in await read_worker_records(broker, now_s=now_s) if not record.is_stale(now_s)]
        await broker.send(store_served_queues(live))


def _has_redis_queue(queue: str, redis_queue: str) -> bool:
    """Return whether a queue has a Redis queue. If the configuration is unavailable, assume that it does."""
    # The queue may be new: a catalog without it is refreshed, and searched again.
    try:
        return any(
            (resolved := get_fresh_catalog(age_s).find(redis_queue)) is not None and resolved.queue.name == queue
            for age_s in (MAX_AGE_S, 0)
        )
    except ConfigurationUnavailable:
        return True  # users are deleted only for a known reason

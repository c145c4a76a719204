"""Duty: keep the Redis users of workers on every server, and delete those whose workers or keys are gone."""

from runqy.accounts.redis_users import RedisUserReconciler
from runqy.broker.broker import Broker


class RedisUserKeeper:
    """Creates users that Redis lost by a restart or failover, before their workers give up."""

    name = "redis_user_keeper"
    interval_s = 1.0

    def __init__(self) -> None:
        self._reconciler = RedisUserReconciler()

    def run_tick(self, broker: Broker) -> None:
        """Compare and correct."""
        self._reconciler.run(broker)

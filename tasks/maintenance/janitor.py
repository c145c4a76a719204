"""Duty: delete what was kept long enough."""

from runqy.broker.broker import Broker
from runqy.broker.expiring import ArchiveRounds, expire_ended
from runqy.broker.heartbeats import forget_expired
from runqy.broker.worker_claims import forget_claims
from tasks.maintenance.served_queues import archived_ttls_s


class Janitor:
    """Deletes ended tasks whose time is over, and workers that have not been heard of."""

    name = "janitor"
    interval_s = 8.0

    def __init__(self) -> None:
        self._rounds = ArchiveRounds()

    def run_tick(self, broker: Broker) -> None:
        """Delete all that is due."""
        expire_ended(broker, archived_ttls_s(broker), self._rounds)
        forget_expired(broker)
        broker.run(forget_claims())

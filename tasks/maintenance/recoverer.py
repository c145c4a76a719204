"""Duty: take tasks back from workers that were lost."""

from runqy.broker.broker import Broker
from runqy.broker.recovering import LeaselessWatch, recover_lost
from runqy.broker.timing import RECOVERY_GRACE_S
from tasks.maintenance.served_queues import served_queues


class Recoverer:
    """Retries or archives running tasks whose lease ended a grace time ago, or that have none."""

    name = "recoverer"
    interval_s = 10.0

    def __init__(self, grace_s: int = RECOVERY_GRACE_S) -> None:
        self._grace_s = grace_s
        self._watch = LeaselessWatch()

    def run_tick(self, broker: Broker) -> None:
        """Recover all that are lost."""
        recover_lost(broker, served_queues(broker), self._watch, grace_s=self._grace_s)

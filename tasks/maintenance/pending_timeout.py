"""Duty: archive tasks that waited for longer than their queue allows."""

from runqy.broker.broker import Broker
from runqy.broker.pending_timeouts import archive_overdue
from tasks.maintenance.served_queues import pending_timeouts_s


class PendingTimeout:
    """Archives overdue tasks of queues with a `pending_timeout`."""

    name = "pending_timeout"
    interval_s = 5.0

    def run_tick(self, broker: Broker) -> None:
        """Archive all that are overdue."""
        archive_overdue(broker, pending_timeouts_s())

"""Duty: make tasks pending whose time has come."""

from runqy.broker.broker import Broker
from runqy.broker.forwarding import forward_due
from tasks.maintenance.served_queues import served_queues


class Forwarder:
    """Moves due tasks from `scheduled` and `retry` to `pending`."""

    name = "forwarder"
    interval_s = 1.0

    def run_tick(self, broker: Broker) -> None:
        """Move all that are due."""
        forward_due(broker, served_queues(broker))

"""Duty: report that maintenance runs."""

from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance


class Heartbeat:
    """Lets `/readyz` and the admin warn when no maintenance process runs."""

    name = "heartbeat"
    interval_s = 10.0

    def run_tick(self, broker: Broker) -> None:
        """Report."""
        broker.run(report_maintenance(now_s=broker.now_s()))

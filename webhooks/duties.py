"""The maintenance duties of webhooks."""

from runqy.broker.broker import Broker
from runqy.broker.streams.run_counters import add_webhook_attempts
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.retention import register_retention
from webhooks.deliveries import drop_deliveries, find_excess_deliveries, find_old_deliveries
from webhooks.models import Delivery
from webhooks.queries import has_undelivered
from webhooks.sender import Sender


@register
class WebhookSender(DatabaseDuty):
    """Send what is due to webhooks, and again what was not accepted."""

    name = "webhook_sender"
    interval_s = 0.5

    def __init__(self) -> None:
        self._sender = Sender()

    def run(self, broker: Broker) -> bool:
        self._sender.run(duration_s=5.0)
        if self._sender.attempts:
            broker.run(add_webhook_attempts(self._sender.attempts))
            self._sender.attempts.clear()
            return True
        return not self._sender.is_idle or has_undelivered()


register_retention(Delivery, find_old_deliveries, drop_deliveries)
register_retention(Delivery, find_excess_deliveries, drop_deliveries)

"""The maintenance duties of webhooks."""

from runqy.broker.broker import Broker
from runqy.broker.streams.run_counters import add_webhook_attempts
from runqy.maintenance.base import DatabaseDuty, register
from webhooks.deliveries import limit_kept, prune_deliveries
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


@register
class DeliveryPruner(DatabaseDuty):
    """Delete old deliveries, and what disabled endpoints keep beyond their limits."""

    name = "delivery_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        while prune_deliveries():
            pass
        limit_kept()

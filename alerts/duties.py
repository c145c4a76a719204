"""The maintenance duties of alerts."""

from alerts.models import Alert, QueueSnooze
from alerts.operations import find_old_alerts, find_old_snoozes, update_alerts
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.retention import register_retention


@register
class AlertEvaluator(DatabaseDuty):
    """Apply the rules, open alerts and resolve them."""

    name = "alert_evaluator"
    interval_s = 10.0

    def run(self, broker: Broker) -> None:
        update_alerts(broker)


register_retention(Alert, find_old_alerts)
register_retention(QueueSnooze, find_old_snoozes)

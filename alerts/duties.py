"""The maintenance duties of alerts."""

from alerts.operations import delete_old_alerts, update_alerts
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class AlertEvaluator(DatabaseDuty):
    """Apply the rules, open alerts and resolve them."""

    name = "alert_evaluator"
    interval_s = 10.0

    def run(self, broker: Broker) -> None:
        update_alerts(broker)


@register
class AlertPruner(DatabaseDuty):
    """Delete alerts that were resolved long ago."""

    name = "alert_pruner"
    interval_s = 3600.0

    def run(self, broker: Broker) -> None:
        delete_old_alerts()

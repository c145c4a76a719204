"""The maintenance duties of vaults."""

from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from vaults.access_log import prune_deliveries, store_deliveries


@register
class DeliveryRecorder(DatabaseDuty):
    """Move records of delivered secrets, which registrations write to Redis, to the database."""

    name = "delivery_recorder"
    interval_s = 2.0

    def run(self, broker: Broker) -> None:
        store_deliveries()


@register
class DeliveryPruner(DatabaseDuty):
    """Delete records of deliveries older than RUNQY_DELIVERIES_KEPT, at most a thousand a tick."""

    name = "delivery_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        prune_deliveries()

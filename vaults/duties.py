"""The maintenance duties of vaults."""

from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from vaults.access_log import prune_deliveries, store_deliveries


@register
class DeliveryRecorder(DatabaseDuty):
    """Move the records of delivered secrets, which registrations write to Redis, to the database."""

    name = "delivery_recorder"
    interval_s = 2.0

    def run(self, broker: Broker) -> None:
        store_deliveries()


@register
class DeliveryPruner(DatabaseDuty):
    """Delete records of deliveries that are older than RUNQY_DELIVERIES_KEPT, at most a thousand at a time."""

    name = "delivery_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        prune_deliveries()

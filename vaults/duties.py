"""The maintenance duties of vaults."""

from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.retention import register_retention
from vaults.access_log import find_old_deliveries, store_deliveries
from vaults.models import VaultDelivery


@register
class DeliveryRecorder(DatabaseDuty):
    """Move the records of delivered secrets, which registrations write to Redis, to the database."""

    name = "delivery_recorder"
    interval_s = 2.0

    def run(self, broker: Broker) -> None:
        store_deliveries()


register_retention(VaultDelivery, find_old_deliveries)

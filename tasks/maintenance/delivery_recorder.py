"""Duty: record in the database which worker was handed out which secrets."""

import structlog
from django.db import DatabaseError, close_old_connections

from runqy.broker.broker import Broker
from vaults.deliveries import store_deliveries

log = structlog.get_logger()


class DeliveryRecorder:
    """Moves what registrations noted in Redis into the database."""

    name = "delivery_recorder"
    interval_s = 2.0

    def run_tick(self, broker: Broker) -> None:
        """Move all that is noted; while the database is away it waits in Redis."""
        close_old_connections()
        try:
            store_deliveries()
        except DatabaseError as error:
            log.warning("database_unavailable", duty=self.name, error=str(error))

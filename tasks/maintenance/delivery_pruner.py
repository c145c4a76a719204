"""Duty: delete records of deliveries that were kept long enough."""

import structlog
from django.db import DatabaseError, close_old_connections

from runqy.broker.broker import Broker
from vaults.deliveries import prune_deliveries

log = structlog.get_logger()


class DeliveryPruner:
    """Deletes at most a thousand records a tick."""

    name = "delivery_pruner"
    interval_s = 60.0

    def run_tick(self, broker: Broker) -> None:
        """Delete some of what is due; a database that is away is asked again next time."""
        close_old_connections()
        try:
            prune_deliveries()
        except DatabaseError as error:
            log.warning("database_unavailable", duty=self.name, error=str(error))

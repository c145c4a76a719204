"""Duty: finish removals of queues that were cut off."""

import structlog
from django.db import DatabaseError, close_old_connections

from queues.removal import finish_removals
from runqy.broker.broker import Broker

log = structlog.get_logger()


class Remover:
    """Goes on with removals that no process is at."""

    name = "remover"
    interval_s = 5.0

    def run_tick(self, broker: Broker) -> None:
        """Finish all that can be; a database that is away is logged, and asked again next time."""
        close_old_connections()
        try:
            finish_removals(broker)
        except DatabaseError as error:
            log.warning("database_unavailable", duty=self.name, error=str(error))

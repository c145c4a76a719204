"""Duty: publish the configuration that Redis has lost or never got."""

import structlog
from django.db import DatabaseError, close_old_connections

from queues.operations import republish_configuration
from runqy.broker.broker import Broker

log = structlog.get_logger()


class Republisher:
    """Makes Redis agree with the database."""

    name = "republisher"
    interval_s = 10.0

    def run_tick(self, broker: Broker) -> None:
        """Compare and publish; a database that is away is logged, and asked again next time."""
        close_old_connections()
        try:
            republish_configuration()
        except DatabaseError as error:
            log.warning("database_unavailable", duty=self.name, error=str(error))

"""The maintenance duties of queues."""

from queues.deletion import finish_deletions
from queues.existing_queues import publish_existing_queues
from queues.moves import move_records, run_moves
from queues.operations import republish_configuration
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class Republisher(DatabaseDuty):
    """Publish the configuration that Redis has lost or never received."""

    name = "republisher"
    interval_s = 10.0

    def run(self, broker: Broker) -> None:
        republish_configuration()


@register
class DeletionFinisher(DatabaseDuty):
    """Finish deletions of queues that were interrupted."""

    name = "deletion_finisher"
    interval_s = 5.0

    def run(self, broker: Broker) -> None:
        finish_deletions(broker)


@register
class ExistingQueuePublisher(DatabaseDuty):
    """Publish which Redis queues exist under another name of a queue, so that workers serve them."""

    name = "existing_queues"
    interval_s = 5.0

    def run(self, broker: Broker) -> None:
        publish_existing_queues(broker)


@register
class Mover(DatabaseDuty):
    """Move tasks of Redis queues that have another name now, or that were requested to move."""

    name = "mover"
    interval_s = 2.0

    def __init__(self) -> None:
        self._has_moved_records = False

    def run(self, broker: Broker) -> None:
        self._has_moved_records = self._has_moved_records or move_records(broker)
        run_moves(broker)

"""The maintenance duties of queues."""

from queues.deletion import finish_deletions
from queues.existing_queues import publish_existing_queues
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
    """Publish which Redis queues exist under other names of a queue, so that workers serve them."""

    name = "existing_queues"
    interval_s = 5.0

    def run(self, broker: Broker) -> None:
        publish_existing_queues(broker)

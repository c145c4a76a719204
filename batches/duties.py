"""The maintenance duties of batches."""

from batches.runner import BatchWork, LostMemberSearch, close_abandoned_batches, delete_old_batches
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class BatchRunner(DatabaseDuty):
    """Enqueue the members and the callbacks of batches, and cancel members."""

    name = "batches"
    interval_s = 0.5

    def __init__(self) -> None:
        self._work = BatchWork()

    def run(self, broker: Broker) -> bool:
        return self._work.run(broker)


@register
class LostMembers(DatabaseDuty):
    """End members of batches whose tasks are gone."""

    name = "lost_members"
    interval_s = 10.0

    def __init__(self) -> None:
        self._search = LostMemberSearch()

    def run(self, broker: Broker) -> None:
        self._search.run(broker)


@register
class BatchPruner(DatabaseDuty):
    """Close batches that nobody closes, and delete old ones."""

    name = "batch_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        close_abandoned_batches(broker)
        delete_old_batches(broker)

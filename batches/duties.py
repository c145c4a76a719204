"""The maintenance duties of batches."""

from batches.runner import LostMemberSearch, delete_old_batches, run_batches
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class BatchRunner(DatabaseDuty):
    """Enqueue the members and the callbacks of batches, and cancel members."""

    name = "batches"
    interval_s = 0.5

    def run(self, broker: Broker) -> None:
        run_batches(broker)


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
    """Delete old batches."""

    name = "batch_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        delete_old_batches(broker)

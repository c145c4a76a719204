"""The maintenance duties of batches."""

from batches.models import Batch, Member
from batches.runner import (
    BatchWork,
    LostMemberSearch,
    close_abandoned_batches,
    find_old_batches,
    find_old_members,
)
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.retention import register_retention


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
class AbandonedBatches(DatabaseDuty):
    """Close batches that nobody closes."""

    name = "abandoned_batches"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        close_abandoned_batches(broker)


register_retention(Member, find_old_members)
register_retention(Batch, find_old_batches)

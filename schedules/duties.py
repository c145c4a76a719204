"""The maintenance duties of schedules."""

from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from schedules.runner import delete_old_fires, run_schedules


@register
class ScheduleRunner(DatabaseDuty):
    """Enqueue the tasks of schedules that are due."""

    name = "schedules"
    interval_s = 1.0

    def run(self, broker: Broker) -> None:
        run_schedules(broker)


@register
class FirePruner(DatabaseDuty):
    """Delete old fires of schedules."""

    name = "fire_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        delete_old_fires()

"""The maintenance duties of schedules."""

from datetime import datetime

from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.retention import register_retention
from schedules.models import Fire
from schedules.runner import correct_due_times, find_old_fires, run_schedules


@register
class ScheduleRunner(DatabaseDuty):
    """Enqueue the tasks of schedules that are due."""

    name = "schedules"
    interval_s = 1.0

    def __init__(self) -> None:
        self._last_run: datetime | None = None

    def run(self, broker: Broker) -> bool:
        now = broker.now()
        # At the start, too: the clock may have been set back while no maintenance ran.
        if self._last_run is None or now < self._last_run:
            correct_due_times(broker)
        self._last_run = now
        return run_schedules(broker)


register_retention(Fire, find_old_fires)

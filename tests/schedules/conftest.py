"""Schedules of tests, with a clock that the test moves to a known time of day."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy import redis_connection
from runqy.broker.broker import Broker
from runqy.redis_connection import get_broker
from schedules.models import Schedule, ScheduleSource
from schedules.operations import save_schedule
from schedules.requested_tasks import request_task
from schedules.runner import run_schedules
from schedules.specs import ScheduleSpec
from tests.queues.samples import spec as queue_spec
from tests.support.maintenance_duties import MovingClock

NIGHTLY = ScheduleSpec(name="nightly", queue="mail", payload='{"n":1}', cron="30 2 * * *", options={"retention": 0})


@pytest.fixture
def queues(configuration: None) -> None:
    save_queue(spec=queue_spec("mail"), source=QueueSource.API)
    save_queue(spec=queue_spec("full", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)


class Times:
    """The clock, moved to times of schedules."""

    def __init__(self, clock: MovingClock, broker: Broker) -> None:
        self._clock, self._broker = clock, broker

    @property
    def now(self) -> datetime:
        return self._broker.now()

    def run_at(self, time: datetime) -> None:
        """Run a pass of the duty at a time."""
        self.move_to(time)
        run_schedules(self._broker)

    def move_to(self, time: datetime) -> None:
        self._clock.advance((time - self.now).total_seconds())

    def run_in(self, **delay: float) -> None:
        self.run_at(self.now + timedelta(**delay))


@pytest.fixture
def times(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Times:
    """Begin on the next day at noon: later than Redis's own clock, so that no window has ended there."""
    get_broker()  # the application's own, whose clock must move too, instead of being measured again
    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)
    found = Times(MovingClock(monkeypatch), single_broker)
    noon = (datetime.now(UTC) + timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    found.move_to(noon)
    return found


@pytest.fixture
def save(single_broker: Broker) -> Callable[..., Schedule]:
    """Save a schedule like NIGHTLY."""

    def call(**changes: Any) -> Schedule:
        spec = replace(NIGHTLY, **changes)
        requested = request_task(spec)
        row, _ = save_schedule(single_broker, spec=spec, requested=requested, source=ScheduleSource.API)
        return row

    return call

"""The interface of maintenance duties, their registration, and a base class for those that use the database."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol, TypeVar

from django.db import DatabaseError, close_old_connections

from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance
from runqy.core.database.errors import find_damage
from runqy.core.telemetry.failure_log import FailureLog


class Duty(Protocol):
    """Periodic work. A tick compares before it acts, because several processes may run the same duty."""

    name: str
    interval_s: float

    def run_tick(self, broker: Broker) -> bool | None:
        """Do what is due, and return. It may block: it has a thread of its own.

        Return False if there was nothing to do: then ticks become rarer until the duty finds something, or is woken by
        `wake_duty`. A duty that returns None keeps its interval.
        """


D = TypeVar("D", bound=type[Duty])

_registered: list[type[Duty]] = []


def register(duty: D) -> D:
    """Register a duty, which maintenance processes then run. A class decorator."""
    _registered.append(duty)
    return duty


def make_duties() -> list[Duty]:
    """Return an instance of each registered duty, sorted by name."""
    return sorted((duty() for duty in _registered), key=lambda duty: duty.name)


class RedisDuty:
    """A duty that needs Redis alone. It runs on the process's event loop: it must not block, or use the database."""

    name: str
    interval_s: float

    async def run(self, broker: Broker) -> bool | None:
        """Do what is due, and return as `Duty.run_tick` does."""
        raise NotImplementedError

    def run_tick(self, broker: Broker) -> bool | None:
        """Run a tick from another thread."""
        return broker.run(self.run(broker))


class DatabaseDuty:
    """A duty that uses the database. While the database is unavailable, its ticks are logged and skipped."""

    name: str
    interval_s: float

    def run_tick(self, broker: Broker) -> bool | None:
        # The connection may have ended since the last tick, or reached CONN_MAX_AGE.
        close_old_connections()
        try:
            found = self.run(broker)
        except DatabaseError as error:
            self._failures.record("database_unavailable", key=str(error), error=find_damage(error) or str(error))
            return None
        self._failures.record_success()
        return found

    def run(self, broker: Broker) -> bool | None:
        """Do what is due, and return as `Duty.run_tick` does. Raise DatabaseError."""
        raise NotImplementedError

    @cached_property
    def _failures(self) -> FailureLog:
        return FailureLog("database_available", duty=self.name)


@register
class Heartbeat(RedisDuty):
    """Reports that maintenance runs. Without reports, /readyz and the admin show a warning."""

    name = "heartbeat"
    interval_s = 10.0

    async def run(self, broker: Broker) -> None:
        await broker.send(report_maintenance(now_s=broker.now_s()))

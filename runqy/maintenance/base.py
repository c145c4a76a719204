"""What a maintenance duty is, the decorator that registers one, and the base of those that use the database."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol, TypeVar

from django.db import DatabaseError, close_old_connections

from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance
from runqy.database.damage import find_damage
from runqy.telemetry.failure_log import FailureLog


class Duty(Protocol):
    """Periodic work. A tick compares before it acts, so that it is harmless wherever and however often it runs."""

    name: str
    interval_s: float

    def run_tick(self, broker: Broker) -> None:
        """Do what is due, and return."""


D = TypeVar("D", bound=type[Duty])

_registered: list[type[Duty]] = []


def register(duty: D) -> D:
    """Have maintenance processes run a duty; a class decorator."""
    _registered.append(duty)
    return duty


def make_duties() -> list[Duty]:
    """Return an instance of each registered duty, by name."""
    return sorted((duty() for duty in _registered), key=lambda duty: duty.name)


class DatabaseDuty:
    """A duty that uses the database. While that is unavailable its ticks are logged and skipped."""

    name: str
    interval_s: float

    def run_tick(self, broker: Broker) -> None:
        """Run, on a database connection that is still usable."""
        close_old_connections()
        try:
            self.run(broker)
        except DatabaseError as error:
            self._failures.record("database_unavailable", key=str(error), error=find_damage(error) or str(error))
        else:
            self._failures.record_success()

    def run(self, broker: Broker) -> None:
        """Do what is due. Raise DatabaseError."""
        raise NotImplementedError

    @cached_property
    def _failures(self) -> FailureLog:
        return FailureLog("database_available", duty=self.name)


@register
class Heartbeat:
    """Report that maintenance runs; without reports /readyz and the admin warn."""

    name = "heartbeat"
    interval_s = 10.0

    def run_tick(self, broker: Broker) -> None:
        broker.run(report_maintenance(now_s=broker.now_s()))

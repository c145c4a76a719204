"""Runs duties over and over, each in a thread of its own, until they are asked to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from runqy import clock
from runqy.broker.broker import Broker
from runqy.errors import RunqyError

CLOCK_CHECK_S = 10.0
"""How old the measure of Redis's clock may be: with a wrong one leases would seem to have ended."""

log = structlog.get_logger()


class Duty(Protocol):
    """Something to be done again and again. A tick is harmless wherever and however often it runs."""

    name: str
    interval_s: float

    def run_tick(self, broker: Broker) -> None:
        """Do what is due now, and return."""


class ClockCheck:
    """Makes sure that a broker knows Redis's time before it is used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured_at = float("-inf")

    def ensure(self, broker: Broker) -> None:
        """Measure, unless that was done a moment ago. Raises BrokerUnavailable."""
        with self._lock:
            if clock.monotonic_s() - self._measured_at >= CLOCK_CHECK_S:
                broker.measure_clock()
                self._measured_at = clock.monotonic_s()


class Loop(threading.Thread):
    """Runs one duty. A tick that fails is logged and comes again; a bug in one duty does not end the others."""

    def __init__(
        self, duty: Duty, get_broker: Callable[[], Broker], clock_check: ClockCheck, stop: threading.Event
    ) -> None:
        super().__init__(name=duty.name, daemon=True)
        self._duty = duty
        self._get_broker = get_broker
        self._clock_check = clock_check
        self._stop_asked = stop
        self._is_hindered = False

    def run(self) -> None:
        """Run ticks until asked to stop."""
        self._run_tick()
        while not self._stop_asked.wait(self._duty.interval_s):
            self._run_tick()

    def _run_tick(self) -> None:
        """Run one tick and log what went wrong; a hindrance that lasts is logged once."""
        try:
            broker = self._get_broker()
            self._clock_check.ensure(broker)
            self._duty.run_tick(broker)
        except RunqyError as error:
            if not self._is_hindered:
                log.warning("duty_hindered", duty=self._duty.name, code=error.code, error=error.detail)
            self._is_hindered = True
        except Exception:
            log.exception("duty_failed", duty=self._duty.name)
        else:
            if self._is_hindered:
                log.info("duty_resumed", duty=self._duty.name)
            self._is_hindered = False


def run_duties(
    duties: Sequence[Duty], get_broker: Callable[[], Broker], stop: threading.Event, *, patience_s: float = 5.0
) -> None:
    """Run duties until `stop` is set; return when all have ended, or have been waited for long enough.

    What a tick leaves undone when the process ends is done by the next process: every step is a script of its own.
    """
    clock_check = ClockCheck()
    loops = [Loop(duty, get_broker, clock_check, stop) for duty in duties]
    for loop in loops:
        loop.start()
    stop.wait()
    deadline = clock.monotonic_s() + patience_s
    for loop in loops:
        loop.join(max(deadline - clock.monotonic_s(), 0))

"""Run each duty periodically, on a thread of its own, until the process stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from runqy import clock
from runqy.broker.broker import Broker
from runqy.errors import RunqyError
from runqy.maintenance.base import Duty
from runqy.telemetry.failure_log import FailureLog

CLOCK_CHECK_S = 5.0
"""How old a measurement of Redis's clock may be. With a wrong clock, leases seem to have expired."""


class ClockCheck:
    """Measures Redis's clock before a broker is used. All duties share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured_at = float("-inf")

    def ensure(self, broker: Broker) -> None:
        """Measure the clock, unless that was done within CLOCK_CHECK_S and no clock has been set. Raise
        BrokerUnavailable.
        """
        with self._lock:
            if clock.monotonic_s() - self._measured_at >= CLOCK_CHECK_S or broker.has_clock_parted:
                broker.measure_clock()
                self._measured_at = clock.monotonic_s()


class DutyThread(threading.Thread):
    """Runs one duty. A tick that fails is logged and repeated. A bug in one duty does not stop the others."""

    def __init__(
        self, duty: Duty, get_broker: Callable[[], Broker], clock_check: ClockCheck, stop: threading.Event
    ) -> None:
        super().__init__(name=duty.name, daemon=True)
        self._duty = duty
        self._get_broker = get_broker
        self._clock_check = clock_check
        self._stopping = stop
        self._failures = FailureLog("duty_resumed", duty=duty.name)

    def run(self) -> None:
        self._run_tick()
        while not self._stopping.wait(self._duty.interval_s):
            self._run_tick()

    def _run_tick(self) -> None:
        try:
            broker = self._get_broker()
            self._clock_check.ensure(broker)
            self._duty.run_tick(broker)
        except RunqyError as error:
            self._failures.record("duty_hindered", key=str(error), code=error.code, error=str(error))
        except Exception as error:  # noqa: BLE001 (a bug in one duty must not end its thread)
            self._failures.record("duty_failed", key=repr(error), exc_info=error)
        else:
            self._failures.record_success()


def run_duties(
    duties: Sequence[Duty], get_broker: Callable[[], Broker], stop: threading.Event, *, grace_s: float = 5.0
) -> None:
    """Run duties until `stop` is set. Then wait at most `grace_s` for their ticks."""
    clock_check = ClockCheck()
    threads = [DutyThread(duty, get_broker, clock_check, stop) for duty in duties]
    for thread in threads:
        thread.start()
    stop.wait()
    deadline = clock.monotonic_s() + grace_s
    for thread in threads:
        # A tick may be left unfinished: each step is a script of its own, and the next process continues.
        thread.join(max(deadline - clock.monotonic_s(), 0))

"""How the threads of duties start, fail, continue and stop."""

import itertools
import threading
import time
from collections.abc import Callable

import pytest
import structlog

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import RedisTarget
from runqy.errors import BrokerUnavailable
from runqy.maintenance.base import Duty
from runqy.maintenance.loops import run_duties
from tests.support.servers import free_port

HOUR_S = 3600
FORCED_END_S = 60.0
"""A run that lasts this long did not end on its own."""


class Scripted:
    """A duty that runs a test's function; `ticks` counts the calls."""

    name = "scripted"
    interval_s = 0.001

    def __init__(self, act: Callable[[int], None]) -> None:
        self.act = act
        self.ticks = 0

    def run_tick(self, broker: Broker) -> None:
        self.ticks += 1
        self.act(self.ticks)


def run(broker: Broker, *duties: Duty, stop: threading.Event, grace_s: float = 60) -> float:
    """Run duties until they stop themselves; return how long that took."""
    started = time.monotonic()
    timer = threading.Timer(FORCED_END_S, stop.set)
    timer.start()
    run_duties(duties, lambda: broker, stop, grace_s=grace_s)
    timer.cancel()
    return time.monotonic() - started


def stop_after(stop: threading.Event, count: int) -> Callable[[int], None]:
    return lambda tick: stop.set() if tick >= count else None


def test_a_bug_in_one_duty_is_logged_and_stops_no_duty(single_broker: Broker) -> None:
    def fail(tick: int) -> None:
        raise ZeroDivisionError

    stop = threading.Event()
    broken = Scripted(fail)
    sound = Scripted(lambda tick: stop.set() if broken.ticks >= 3 and tick >= 3 else None)

    with structlog.testing.capture_logs() as logs:
        run(single_broker, broken, sound, stop=stop)

    assert broken.ticks >= 3
    assert [log["event"] for log in logs] == ["duty_failed"]
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


def test_a_persistent_error_is_logged_once_and_so_is_its_end(single_broker: Broker) -> None:
    stop = threading.Event()

    def act(tick: int) -> None:
        if tick <= 3:
            raise BrokerUnavailable
        stop_after(stop, 6)(tick)

    with structlog.testing.capture_logs() as logs:
        run(single_broker, Scripted(act), stop=stop)

    assert [log["event"] for log in logs] == ["duty_hindered", "duty_resumed"]
    assert logs[0]["code"] == "broker_unavailable"
    assert logs[1]["failures"] == 3


def test_no_duty_runs_before_the_clock_of_redis_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Broker(RedisTarget(addresses=(("127.0.0.1", free_port()),)))
    duty, stop = Scripted(lambda tick: None), threading.Event()
    measure, measured = away.measure_clock, itertools.count(1)

    def measure_thrice() -> float:
        if next(measured) == 3:
            stop.set()
        return measure()

    monkeypatch.setattr(away, "measure_clock", measure_thrice)

    with structlog.testing.capture_logs() as logs:
        run(away, duty, stop=stop)

    assert duty.ticks == 0
    assert [log["event"] for log in logs] == ["duty_hindered"]


def test_the_clock_is_measured_for_all_duties_at_once(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_ns, monotonic_ns = time.time_ns() - 24 * HOUR_S * 10**9, time.monotonic_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: stopped_ns)
    monkeypatch.setattr(clock, "monotonic_ns", lambda: monotonic_ns)
    offsets: list[float] = []
    stop = threading.Event()
    measure = single_broker.measure_clock
    monkeypatch.setattr(single_broker, "measure_clock", lambda: offsets.append(measure()))

    run(single_broker, *(Scripted(stop_after(stop, 5)) for _ in range(3)), stop=stop)

    assert offsets == [pytest.approx(24 * HOUR_S, abs=HOUR_S)]
    assert single_broker.now_s() == pytest.approx(time.time(), abs=HOUR_S)


def test_a_long_interval_does_not_delay_the_stop(single_broker: Broker) -> None:
    stop = threading.Event()
    duty = Scripted(stop_after(stop, 1))
    duty.interval_s = 3600

    assert run(single_broker, duty, stop=stop) < FORCED_END_S
    assert duty.ticks == 1


def test_a_hanging_tick_does_not_keep_the_process_running(single_broker: Broker) -> None:
    stop, release = threading.Event(), threading.Event()

    def hang(tick: int) -> None:
        stop.set()
        release.wait(FORCED_END_S)

    assert run(single_broker, Scripted(hang), stop=stop, grace_s=0.1) < FORCED_END_S
    release.set()

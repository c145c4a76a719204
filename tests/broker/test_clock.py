"""The clock of Redis counts, unless its offset is within the time of a round trip."""

import time
from typing import Any

import pytest

from runqy import clock
from runqy.broker.broker import Broker
from runqy.core.environment.connection_urls import RedisTarget
from runqy.redis_connection import CHECK_CLOCK_EVERY_S, get_broker
from tests.support.environment import SERVER
from tests.support.fake_redis import FakeRedis

HOUR_S = 3600
TOLERANCE_S = HOUR_S / 2
"""The fastest of a few round trips counts, which may be slow all the same."""


def test_a_clock_that_is_wrong_is_corrected(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_ns", lambda: time.time_ns() - HOUR_S * 10**9)

    offset_s = single_broker.measure_clock()

    assert offset_s == pytest.approx(HOUR_S, abs=TOLERANCE_S)
    assert single_broker.now_s() == pytest.approx(time.time(), abs=TOLERANCE_S)


def test_clocks_that_agree_are_not_made_to_differ(single_broker: Broker) -> None:
    single_broker.measure_clock()
    before_ns = time.time_ns()

    now_ns = single_broker.now_ns()

    assert now_ns == pytest.approx(before_ns, abs=TOLERANCE_S * 10**9)
    assert single_broker.measure_clock() == 0


def test_a_process_that_is_delayed_at_its_look_at_the_clock_is_not_made_to_differ(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = clock.now_ns

    def look_and_be_delayed() -> int:
        now_ns = look()
        time.sleep(0.03)
        return now_ns

    monkeypatch.setattr(clock, "now_ns", look_and_be_delayed)

    assert single_broker.measure_clock() == 0


def reply_with_time(received: list[bytes], now_s: float) -> bytes:
    """Return what a Redis replies whose clock shows this time."""
    if received[0] != b"TIME":
        return b"+OK\r\n"
    seconds = b"%d" % now_s
    return b"*2\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(seconds), seconds)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_a_wall_clock_that_is_set_changes_nothing(
    stopped_clock: None, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    stopped_ns = clock.now_ns()
    with FakeRedis(lambda received: reply_with_time(received, stopped_ns / 1e9)) as server:
        broker = Broker(server.target)
        broker.measure_clock()
        assert not broker.has_clock_parted
        before_s = broker.now_s()

        monkeypatch.setattr(clock, "now_ns", lambda: stopped_ns + step_s * 10**9)

        assert broker.now_s() == before_s
        assert broker.has_clock_parted
        assert broker.measure_clock() == pytest.approx(-step_s, abs=1)
        assert broker.now_s() == pytest.approx(before_s, abs=1)
        broker.close()


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_a_clock_of_redis_that_is_set_is_followed(step_s: int) -> None:
    steps = [0]

    with FakeRedis(lambda received: reply_with_time(received, time.time() + steps[-1])) as server:
        broker = Broker(server.target)
        broker.measure_clock()
        steps.append(step_s)
        broker.measure_clock()
        broker.close()

    assert broker.now_s() == pytest.approx(time.time() + step_s, abs=TOLERANCE_S)


def test_the_clock_is_measured_again_after_the_machine_slept(
    redis: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock stands still meanwhile, in a virtual machine too."""
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", SERVER.port),))
    get_broker()

    monkeypatch.setattr(clock, "monotonic_ns", lambda: time.monotonic_ns() - HOUR_S * 10**9)
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + CHECK_CLOCK_EVERY_S)

    assert get_broker().now_s() == pytest.approx(time.time(), abs=TOLERANCE_S)

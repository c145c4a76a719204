"""The clock of Redis counts, unless its offset is within the time of a round trip."""

import time

import pytest

from runqy import clock
from runqy.broker.broker import Broker

TOLERANCE_S = 10
"""The fastest of a few round trips counts, which may be slow all the same."""


def test_a_clock_that_is_wrong_is_corrected(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_ns", lambda: time.time_ns() - 300 * 10**9)

    offset_s = single_broker.measure_clock()
    before_ns = time.time_ns()
    now_ns = single_broker.now_ns()
    after_ns = time.time_ns()

    assert offset_s == pytest.approx(300, abs=TOLERANCE_S)
    assert before_ns - TOLERANCE_S * 10**9 <= now_ns <= after_ns + TOLERANCE_S * 10**9


def test_clocks_that_agree_are_not_made_to_differ(single_broker: Broker) -> None:
    single_broker.measure_clock()
    before_ns = time.time_ns()

    now_ns = single_broker.now_ns()

    assert before_ns <= now_ns <= time.time_ns()


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

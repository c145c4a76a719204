"""When a worker whose Redis is silent asks its server where Redis is."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from runqy import clock
from workers.runtime.heartbeat import BrokerOutageTimer, RefusalTimer


class Hours:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.now_s)

    def asks_in(self, is_due: Callable[[], bool], span_s: float, *, step_s: float = 5.0) -> list[float]:
        """Return when the server was asked within a span of misses, from its beginning."""
        began_s, asked = self.now_s, []
        while self.now_s - began_s < span_s:
            if is_due():
                asked.append(self.now_s - began_s)
            self.now_s += step_s
        return asked


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    """Return the clock that the code under test reads."""
    return Hours(monkeypatch)


def test_the_server_is_asked_after_a_lease_and_then_less_and_less(hours: Hours) -> None:
    asked = hours.asks_in(partial(BrokerOutageTimer().should_reregister, 30), 3600)

    gaps = [later - before for before, later in pairwise(asked)]
    assert asked[0] == 30
    assert 45 <= gaps[0] <= 80
    assert all(220 <= gap <= 380 for gap in gaps[3:])
    assert len(asked) > 8


def test_an_answer_ends_the_silence(hours: Hours) -> None:
    outage = BrokerOutageTimer()
    is_due = partial(outage.should_reregister, 30)
    assert hours.asks_in(is_due, 29) == []

    outage.reset()

    assert hours.asks_in(is_due, 29) == []
    assert hours.asks_in(is_due, 10) == [0]


def test_a_user_that_redis_refuses_is_asked_for_only_when_maintenance_has_had_time(hours: Hours) -> None:
    refusals = RefusalTimer()

    asked = hours.asks_in(refusals.should_reregister, 12, step_s=1.0)

    assert 6 <= asked[0] <= 11


def test_refusals_that_are_far_apart_have_nothing_to_do_with_each_other(hours: Hours) -> None:
    refusals = RefusalTimer()

    assert hours.asks_in(refusals.should_reregister, 300, step_s=30.0) == []

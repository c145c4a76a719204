"""When a worker whose Redis is silent asks its server where Redis is."""

from itertools import pairwise

import pytest

from runqy import clock
from workers.runtime.heartbeat import BrokerOutageTimer


class Hours:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.now_s)

    def asks_in(self, outage: BrokerOutageTimer, span_s: float, *, step_s: float = 5.0) -> list[float]:
        """Return when the server was asked within a span of misses, from its beginning."""
        began_s, asked = self.now_s, []
        while self.now_s - began_s < span_s:
            if outage.should_reregister(30):
                asked.append(self.now_s - began_s)
            self.now_s += step_s
        return asked


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    """Return the clock that the code under test reads."""
    return Hours(monkeypatch)


def test_the_server_is_asked_after_a_lease_and_then_less_and_less(hours: Hours) -> None:
    asked = hours.asks_in(BrokerOutageTimer(), 3600)

    gaps = [later - before for before, later in pairwise(asked)]
    assert asked[0] == 30
    assert 45 <= gaps[0] <= 80
    assert all(220 <= gap <= 380 for gap in gaps[3:])
    assert len(asked) > 8


def test_an_answer_ends_the_silence(hours: Hours) -> None:
    outage = BrokerOutageTimer()
    assert hours.asks_in(outage, 29) == []

    outage.reset()

    assert hours.asks_in(outage, 29) == []
    assert hours.asks_in(outage, 10) == [0]

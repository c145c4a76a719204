"""When a worker registers again because Redis does not respond."""

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

    def requests_in(self, is_due: Callable[[], bool], span_s: float, *, step_s: float = 5.0) -> list[float]:
        """Return when the worker registered during consecutive failures, counted from their start."""
        began_s, requested_at = self.now_s, []
        while self.now_s - began_s < span_s:
            if is_due():
                requested_at.append(self.now_s - began_s)
            self.now_s += step_s
        return requested_at


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    """Return the clock that the code under test reads."""
    return Hours(monkeypatch)


def test_the_worker_registers_after_a_lease_and_then_less_and_less_often(hours: Hours) -> None:
    requested_at = hours.requests_in(partial(BrokerOutageTimer().should_reregister, 30), 3600)

    gaps = [later - before for before, later in pairwise(requested_at)]
    assert requested_at[0] == 30
    assert 45 <= gaps[0] <= 80
    assert all(220 <= gap <= 380 for gap in gaps[3:])
    assert len(requested_at) > 8


def test_a_response_resets_the_outage(hours: Hours) -> None:
    outage = BrokerOutageTimer()
    is_due = partial(outage.should_reregister, 30)
    assert hours.requests_in(is_due, 29) == []

    outage.reset()

    assert hours.requests_in(is_due, 29) == []
    assert hours.requests_in(is_due, 10) == [0]


def test_a_refused_redis_user_is_requested_again_only_after_maintenance_had_time(hours: Hours) -> None:
    refusals = RefusalTimer()

    requested_at = hours.requests_in(refusals.should_reregister, 60, step_s=1.0)

    assert 6 <= requested_at[0] <= 11
    assert all(later - before >= 6 for before, later in pairwise(requested_at))


def test_refusals_that_are_far_apart_have_nothing_to_do_with_each_other(hours: Hours) -> None:
    refusals = RefusalTimer()

    assert hours.requests_in(refusals.should_reregister, 300, step_s=30.0) == []

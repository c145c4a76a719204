"""Calls of a server that does not respond: only some wait for it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from runqy.admin_site.page_cache import OPEN_S, SLOW_S, CircuitBreaker, CircuitOpen

pytestmark = pytest.mark.fault

NOW = "runqy.clock.monotonic_s"


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the time that the breaker sees."""
    clock = Clock()
    monkeypatch.setattr(NOW, clock)
    return clock


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker((ConnectionError,))


def failing(clock: Clock, took_s: float) -> Callable[[], None]:
    """Return a call that fails after a while."""

    def fail() -> None:
        clock.now_s += took_s
        raise ConnectionError

    return fail


def test_after_a_slow_failure_calls_fail_at_once_for_a_while(breaker: CircuitBreaker, clock: Clock) -> None:
    with pytest.raises(ConnectionError):
        breaker.call(failing(clock, SLOW_S))

    with pytest.raises(CircuitOpen):
        breaker.call(lambda: 1)
    clock.now_s += OPEN_S
    assert breaker.call(lambda: 1) == 1
    assert breaker.call(lambda: 2) == 2


def test_a_quick_failure_does_not_open_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(failing(clock, SLOW_S / 2))

    assert breaker.call(lambda: 1) == 1


def test_an_error_reply_does_not_open_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    def refuse() -> None:
        clock.now_s += SLOW_S
        raise LookupError

    with pytest.raises(LookupError):
        breaker.call(refuse)

    assert breaker.call(lambda: 1) == 1


def test_one_call_at_a_time_probes_an_open_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    with pytest.raises(ConnectionError):
        breaker.call(failing(clock, SLOW_S))
    clock.now_s += OPEN_S
    has_begun, may_end = threading.Event(), threading.Event()

    def hang() -> int:
        has_begun.set()
        assert may_end.wait(30)
        return 1

    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(breaker.call, hang)
        assert has_begun.wait(30)
        with pytest.raises(CircuitOpen):
            breaker.call(lambda: 2)
        may_end.set()

        assert trying.result(30) == 1
    assert breaker.call(lambda: 2) == 2


def test_a_call_that_begins_while_another_closes_the_circuit_is_sent(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker.record(ConnectionError(), SLOW_S)

    def close_meanwhile() -> float:
        breaker.record(None, 0)
        return float("inf")

    monkeypatch.setattr(NOW, close_meanwhile)

    assert breaker.call(lambda: 1) == 1

"""A failure that repeats in the log."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import structlog

from runqy import clock
from runqy.core.telemetry.failure_log import MAX_INTERVAL_S, FailureLog


class FixedClock:
    """A time that a test moves."""

    now_s = 1000.0


@pytest.fixture(autouse=True)
def time_(monkeypatch: pytest.MonkeyPatch) -> FixedClock:
    fixed = FixedClock()
    monkeypatch.setattr(clock, "monotonic_s", lambda: fixed.now_s)
    return fixed


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Return what is logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def test_a_failure_is_logged_once_and_its_end_with_the_number_of_failures(logged: list[Any], time_: FixedClock) -> None:
    failures = FailureLog("registered")

    for _ in range(339):
        failures.record("not_registered", key="vault", reason="The vault is missing.")
        time_.now_s += 0.1
    failures.record_success()

    first, last = logged
    assert first == {"event": "not_registered", "log_level": "warning", "reason": "The vault is missing."}
    assert last == {"event": "registered", "log_level": "info", "failures": 339, "after_s": 33.9}


def test_a_failure_that_lasts_is_logged_at_growing_intervals_with_its_count(
    logged: list[Any], time_: FixedClock
) -> None:
    failures = FailureLog("ended")

    for _ in range(86_400):
        failures.record("failed", key="x")
        time_.now_s += 1

    counts = [entry.get("times") for entry in logged]
    assert counts[:6] == [None, 61, 181, 421, 901, 1861]
    assert {later - earlier for earlier, later in pairwise(counts[7:])} == {MAX_INTERVAL_S}


def test_another_failure_is_logged_immediately_and_an_alternating_one_is_not(logged: list[Any]) -> None:
    failures = FailureLog("ended")

    for reason in ("away", "refused", "away", "refused", "away"):
        failures.record("failed", key=reason, reason=reason)

    assert [entry["reason"] for entry in logged] == ["away", "refused"]


def test_members_that_change_make_no_other_failure(logged: list[Any]) -> None:
    failures = FailureLog("ended")

    for attempt in range(3):
        failures.record("failed", key="x", next_try_s=attempt)

    assert [entry["next_try_s"] for entry in logged] == [0]


def test_a_failure_after_a_success_is_logged_again(logged: list[Any]) -> None:
    failures = FailureLog("ended")

    failures.record("failed", key="x")
    failures.record_success()
    failures.record("failed", key="x")

    assert [entry["event"] for entry in logged] == ["failed", "ended", "failed"]


def test_a_success_without_a_failure_logs_nothing(logged: list[Any]) -> None:
    FailureLog("ended").record_success()

    assert logged == []


def test_an_unexpected_error_is_logged_with_its_traceback(logged: list[Any]) -> None:
    error = ZeroDivisionError("x")

    FailureLog("ended").record("failed", key="x", exc_info=error)

    assert (logged[0]["log_level"], logged[0]["exc_info"]) == ("error", error)


def test_failures_that_are_all_different_take_bounded_memory(logged: list[Any]) -> None:
    failures = FailureLog("ended")

    for number in range(200):
        failures.record("failed", key=str(number))
    failures.record("failed", key="0")

    assert len(logged) == 201


def test_every_entry_has_the_members_of_its_log(logged: list[Any]) -> None:
    failures = FailureLog("ended", duty="forwarder")

    failures.record("failed", key="x")
    failures.record_success()

    assert [entry["duty"] for entry in logged] == ["forwarder", "forwarder"]

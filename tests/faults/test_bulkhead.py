"""Calls of a server that may not respond: a few at a time."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from runqy.concurrency.bulkhead import Bulkhead, BulkheadFull
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault


def run(bulkhead: Bulkhead) -> bool:
    """Enter and leave it."""
    with bulkhead.enter():
        return True


def test_a_call_is_refused_when_those_in_progress_stall() -> None:
    bulkhead = Bulkhead(2)

    with bulkhead.enter(), bulkhead.enter(), pytest.raises(BulkheadFull):
        run(bulkhead)

    assert run(bulkhead)


def test_a_call_waits_for_its_turn_while_there_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    bulkhead = Bulkhead(1)
    looks: list[float] = []
    monkeypatch.setattr("runqy.clock.monotonic_s", lambda: looks.append(100) or 100)  # the call has just begun

    with ThreadPoolExecutor(1) as pool:
        with bulkhead.enter():
            second = pool.submit(run, bulkhead)
            wait_until(lambda: len(looks) > 2)  # it has waited once without a response
            assert not second.done()

        assert second.result(30)

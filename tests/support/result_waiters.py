"""The clients of this process that wait for results."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tasks.waiting import ResultWaiters, WaiterLimits
from tasks.waiting_loop import get_waiting_loop
from tests.support.waiting import wait_until


@contextmanager
def limited_waiters(monkeypatch: pytest.MonkeyPatch, limits: WaiterLimits) -> Iterator[ResultWaiters]:
    """Give the process's waiters, and end the waits that are left."""
    found = get_waiting_loop().waiters
    monkeypatch.setattr(found, "limits", limits)
    monkeypatch.setattr(found, "is_draining", False)
    yield found
    drain(found)
    wait_until(lambda: not found.active)


def drain(waiters: ResultWaiters) -> None:
    """Drain, on the event loop."""

    async def act() -> None:
        waiters.drain()

    get_waiting_loop().run(act())

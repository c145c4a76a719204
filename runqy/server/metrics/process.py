"""Gauges of this process, set once a second on its event loop and whenever it serves /metrics."""

import asyncio
from collections.abc import Callable

from prometheus_client import Gauge

from runqy import clock
from runqy.configuration.snapshot import get_cache
from runqy.server.metrics.declarations import SNAPSHOT_AGE, WAITERS
from runqy.server.metrics.http_requests import requests_in_flight

SAMPLE_EVERY_S = 1.0

_snapshot_age = Gauge(SNAPSHOT_AGE.name, SNAPSHOT_AGE.help, multiprocess_mode="livemax")
waiters = Gauge(WAITERS.name, WAITERS.help, multiprocess_mode="livesum")


class ProcessSampler:
    """Sets the gauges of a process once a second, on its event loop."""

    def __init__(self, *, count_requests: Callable[[], int], count_waiters: Callable[[], int]) -> None:
        self._count_requests, self._count_waiters = count_requests, count_waiters
        self._requests = requests_in_flight.labels("data")
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_soon(self._sample)

    def close(self) -> None:
        self._timer.cancel()

    def _sample(self) -> None:
        self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._sample)
        self._requests.set(self._count_requests())
        waiters.set(self._count_waiters())
        sample_snapshot()


def sample_snapshot() -> None:
    """Set the age of the snapshot, unless none was ever confirmed."""
    confirmed_at = get_cache().confirmed_at
    if confirmed_at > 0:
        _snapshot_age.set(clock.monotonic_s() - confirmed_at)

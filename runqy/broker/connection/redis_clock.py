"""Measure the offset of Redis's clock."""

from __future__ import annotations

import time

from runqy import clock
from runqy.broker.operation import Operation, Request, ask
from runqy.broker.scripts import command

SAMPLES = 3
TOLERANCE_NS = 5_000_000
"""Redis reads its clock once per iteration of its event loop."""

_TIME = Request((command("TIME", key=None),), lambda replies: (int(replies[0][0]), int(replies[0][1])))
"""Unix s, and us of that second, by Redis's clock."""


class RedisClock:
    """Redis's clock, as far as it was measured."""

    def __init__(self) -> None:
        self._offset_ns = 0

    def now_ns(self) -> int:
        return clock.now_ns() + self._offset_ns

    def measure(self) -> Operation[float]:
        """Measure, store and return the offset of Redis's clock in s.

        The fastest of a few round trips counts. An offset that the round trip can explain is taken as 0, so that clocks
        that agree, as on one machine, do not appear to differ between processes.
        """
        samples = []
        for _ in range(SAMPLES):
            samples.append((yield from self._compare()))
        round_trip_ns, offset_ns = min(samples)
        self._offset_ns = 0 if abs(offset_ns) <= round_trip_ns // 2 + TOLERANCE_NS else offset_ns
        return self._offset_ns / 1e9

    def _compare(self) -> Operation[tuple[int, int]]:
        """Return the time of a round trip, and the offset of Redis's clock at its middle, both in ns."""
        started_ns = time.monotonic_ns()  # first: a delay between the two counts as a part of the round trip
        before_ns = clock.now_ns()
        seconds, micros = yield from ask(_TIME)
        round_trip_ns = time.monotonic_ns() - started_ns
        redis_ns = seconds * 1_000_000_000 + micros * 1_000
        return round_trip_ns, redis_ns - (before_ns + round_trip_ns // 2)

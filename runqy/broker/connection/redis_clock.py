"""Measure the offset of Redis's clock."""

from __future__ import annotations

from runqy import clock
from runqy.broker.operation import Operation, Request, ask
from runqy.broker.scripts import command

SAMPLES = 3
TOLERANCE_NS = 5_000_000
"""Redis reads its clock once per iteration of its event loop."""
PARTED_NS = 100_000_000
"""The wall clock may be slewed by 30 ms a minute."""

_TIME = Request((command("TIME", key=None),), lambda replies: (int(replies[0][0]), int(replies[0][1])))
"""Unix s, and us of that second, by Redis's clock."""


class RedisClock:
    """Redis's clock, as far as it was measured.

    Between two measurements the monotonic clock counts, so that a wall clock that is set changes nothing.
    """

    def __init__(self) -> None:
        self._wall_offset_ns = self._offset_ns = clock.now_ns() - clock.monotonic_ns()
        """How far the wall clock was ahead of the monotonic clock at the last measurement, and how far Redis's was."""

    def now_ns(self) -> int:
        return clock.monotonic_ns() + self._offset_ns

    @property
    def has_parted(self) -> bool:
        """The wall clock was set since the last measurement, or the monotonic clock stood still with the machine.

        The clock of a Redis on this machine was set too.
        """
        return abs(clock.now_ns() - clock.monotonic_ns() - self._wall_offset_ns) > PARTED_NS

    def measure(self) -> Operation[float]:
        """Measure and store Redis's clock, and return how far it is ahead of the wall clock in s.

        The fastest of a few round trips counts. A difference that the round trip can explain is taken as 0, so that
        clocks that agree, as on one machine, do not appear to differ between processes.
        """
        samples = []
        for _ in range(SAMPLES):
            samples.append((yield from self._compare()))
        round_trip_ns, ahead_ns, self._wall_offset_ns = min(samples)
        ahead_ns = 0 if abs(ahead_ns) <= round_trip_ns // 2 + TOLERANCE_NS else ahead_ns
        self._offset_ns = self._wall_offset_ns + ahead_ns
        return ahead_ns / 1e9

    def _compare(self) -> Operation[tuple[int, int, int]]:
        """Return the time of a round trip, and how far Redis's clock at its middle was ahead of the wall clock, and
        this of the monotonic clock, all in ns.
        """
        started_ns = clock.monotonic_ns()  # first: a delay between the two counts as a part of the round trip
        before_ns = clock.now_ns()
        seconds, micros = yield from ask(_TIME)
        round_trip_ns = clock.monotonic_ns() - started_ns
        redis_ns = seconds * 1_000_000_000 + micros * 1_000
        return round_trip_ns, redis_ns - (before_ns + round_trip_ns // 2), before_ns - started_ns

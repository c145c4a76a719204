"""Redis's clock, which all processes share."""

from runqy import clock
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import command

SAMPLES = 3
TOLERANCE_NS = 5_000_000
"""Redis reads its clock only once per iteration of its event loop, so TIME may be this old."""
PARTED_NS = 100_000_000
"""NTP may slew the wall clock by 30 ms a minute, which is no reason to measure again."""

_TIME = Request((command("TIME", key=None),), lambda replies: (int(replies[0][0]), int(replies[0][1])))
"""Unix s, and us of that second, by Redis's clock."""


class RedisClock:
    """Redis's clock, as last measured.

    Between measurements it is derived from the monotonic clock, so that setting the wall clock changes nothing.
    """

    def __init__(self) -> None:
        # How far the wall clock was ahead of the monotonic clock at the last measurement, and how far Redis's was.
        self._wall_offset_ns = self._offset_ns = clock.now_ns() - clock.monotonic_ns()

    def now_ns(self) -> int:
        return clock.monotonic_ns() + self._offset_ns

    @property
    def has_parted(self) -> bool:
        """Whether the wall clock was set since the last measurement, or the machine slept and its monotonic clock
        stopped.

        If Redis runs on the same machine, its clock has changed too.
        """
        return abs(clock.now_ns() - clock.monotonic_ns() - self._wall_offset_ns) > PARTED_NS

    async def measure(self, broker: AnyBroker) -> float:
        """Measure and store the offset of Redis's clock; return how far it is ahead of the wall clock in s.

        The fastest of SAMPLES round trips counts. A difference that the round trip can explain is taken as 0, so that
        clocks that agree, as on one machine, do not appear to differ between processes.
        """
        samples = []
        for _ in range(SAMPLES):
            samples.append(await self._compare(broker))
        round_trip_ns, ahead_ns, self._wall_offset_ns = min(samples)
        ahead_ns = 0 if abs(ahead_ns) <= round_trip_ns // 2 + TOLERANCE_NS else ahead_ns
        self._offset_ns = self._wall_offset_ns + ahead_ns
        return ahead_ns / 1e9

    async def _compare(self, broker: AnyBroker) -> tuple[int, int, int]:
        """Return in ns the time of a round trip, how far Redis's clock was ahead of the wall clock in its middle, and
        how far the wall clock was ahead of the monotonic clock.
        """
        started_ns = clock.monotonic_ns()  # first: a delay between the two counts as a part of the round trip
        before_ns = clock.now_ns()
        seconds, micros = await broker.send(_TIME)
        round_trip_ns = clock.monotonic_ns() - started_ns
        redis_ns = seconds * 1_000_000_000 + micros * 1_000
        return round_trip_ns, redis_ns - (before_ns + round_trip_ns // 2), before_ns - started_ns

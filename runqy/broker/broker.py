"""Run requests and operations on Redis with blocking I/O, and keep its clock offset."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from redis import RedisCluster

from runqy import clock
from runqy.broker.connection.redis_client import RedisTarget, connect_client, make_connection
from runqy.broker.memory import MemoryUse
from runqy.broker.request import AnyBroker, Request, RequestBatch, raise_if_unknown, run_blocking
from runqy.broker.scripts import command
from runqy.errors import BrokerFull, BrokerRefused, BrokerUnavailable, RunqyError

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

T = TypeVar("T")

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


class Broker:
    """Tasks and queues in Redis."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self.client = client
        self.connection = make_connection(client)
        self._clock = RedisClock()
        self.memory = MemoryUse(is_cluster=self.is_cluster)

    @classmethod
    def connect(cls, target: RedisTarget) -> Broker:
        """Return a broker for a target. A single server is not contacted before the first request."""
        return cls(connect_client(target))

    @property
    def is_cluster(self) -> bool:
        """Keys with different hash tags may be on different nodes."""
        return self.connection.is_cluster

    def run(self, work: Request[T] | Coroutine[Any, Any, T]) -> T:
        """Return the outcome of a request, or of an operation that was called with this broker.

        Raise BrokerUnavailable, or the errors that it documents.
        """
        if isinstance(work, Request):
            outcome: T = self._run(work)
            return outcome
        return run_blocking(work)

    def run_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run requests in one round trip; the result of a failed request is its error.

        Raise BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
        """
        outcomes: list[T | RunqyError] = self._run(RequestBatch(tuple(requests))) if requests else []
        return outcomes

    async def send(self, request: Request[T]) -> T:
        """Return the outcome of a request for an operation that this thread runs. Blocks."""
        outcome: T = self._run(request)
        return outcome

    async def send_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Return what `run_all` does for an operation that this thread runs. Blocks."""
        return self.run_all(requests)

    def _run(self, request: Request[Any] | RequestBatch) -> Any:
        try:
            replies = self.connection.execute(request.commands)
        except (BrokerFull, BrokerRefused):  # Redis replied: no reply was lost
            raise
        except BrokerUnavailable as error:
            # The commands may have run although their replies were lost. Only a request that may run twice is sent
            # again.
            if not request.may_repeat:
                raise_if_unknown(request, error)
                raise
            try:
                return request.read(self.connection.execute(request.commands))
            except BrokerUnavailable as again:
                raise_if_unknown(request, error, again)
                raise
        return request.read(replies)

    def now_ns(self) -> int:
        """Return Unix time in ns by Redis's clock, as it was last measured."""
        return self._clock.now_ns()

    def now_s(self) -> int:
        return self._clock.now_ns() // 1_000_000_000

    def now(self) -> datetime:
        """Return the time by Redis's clock, which all processes share."""
        return datetime.fromtimestamp(self.now_ns() / 1e9, UTC)

    @property
    def has_clock_parted(self) -> bool:
        """Whether one of the clocks was set, so that `measure_clock` is due now."""
        return self._clock.has_parted

    def measure_clock(self) -> float:
        """Measure and return the offset of Redis's clock in s. Raise BrokerUnavailable."""
        return self.run(self._clock.measure(self))

    def pubsub(self) -> PubSub:
        """Return a new subscription connection; the caller closes it."""
        subscription: PubSub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        return subscription

    def close(self) -> None:
        self.client.close()
        if not isinstance(self.client, RedisCluster):
            self.client.connection_pool.disconnect()

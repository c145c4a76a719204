"""Runs requests on Redis, one or many in a round trip, and knows Redis's time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from redis import RedisCluster

from runqy import clock
from runqy.broker.connection import RedisTarget, connect_client, make_link
from runqy.broker.links import checked
from runqy.broker.operation import BrokerContext, Operation, Request, RequestBatch, ask_all
from runqy.broker.scripts import command
from runqy.errors import BrokerFull, BrokerRefused, BrokerUnavailable, RunqyError

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

T = TypeVar("T")

CLOCK_SAMPLES = 3
CLOCK_TOLERANCE_NS = 5_000_000
"""Redis reads its clock once for all that it does in a round of its event loop."""


class Broker:
    """The tasks and queues in one Redis."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self.client = client
        self.link = make_link(client)
        self._offset_ns = 0

    @classmethod
    def connect(cls, target: RedisTarget) -> Broker:
        """Return a broker for a target. Single servers are not contacted before the first request."""
        return cls(connect_client(target))

    @property
    def is_cluster(self) -> bool:
        """Tell whether keys of different hash tags live on different nodes."""
        return self.link.is_cluster

    def run(self, work: Request[T] | Operation[T]) -> T:
        """Run a request, or an operation to its end. Raises BrokerUnavailable, or what the work documents."""
        if isinstance(work, Request):
            requested: T = self._run(work)
            return requested
        outcome: Any = None
        error: RunqyError | None = None
        while True:
            try:
                effect = work.send(outcome) if error is None else work.throw(error)
            except StopIteration as end:
                value: T = end.value
                return value
            outcome, error = None, None
            try:
                outcome = self._run(effect) if isinstance(effect, Request | RequestBatch) else self.context()
            except RunqyError as raised:
                error = raised

    def run_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run many requests in one round trip; a request that fails has its error in its place.

        Raises BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
        """
        return self.run(ask_all(requests))

    def _run(self, request: Request[Any] | RequestBatch) -> Any:
        """Send a request or a batch; once more after a lost connection where that is harmless."""
        try:
            replies = self.link.execute(request.commands)
        except (BrokerFull, BrokerRefused):
            raise
        except BrokerUnavailable:
            if not request.is_repeatable:
                raise
            replies = self.link.execute(request.commands)
        return request.read(replies)

    def context(self) -> BrokerContext:
        """Return the time by Redis's clock and the topology."""
        return BrokerContext(now_ns=self.now_ns(), is_cluster=self.is_cluster)

    def now_ns(self) -> int:
        """Return Unix time in ns by Redis's clock, as far as it was measured."""
        return clock.now_ns() + self._offset_ns

    def now_s(self) -> int:
        """Return Unix time in whole s by Redis's clock, as far as it was measured."""
        return self.now_ns() // 1_000_000_000

    def measure_clock(self) -> float:
        """Ask Redis for its time, keep the difference to ours, and return that in s.

        The quickest of a few answers counts. A difference that its round trip may have made is none: clocks that agree,
        as those of one machine do, must not seem to differ from one process to the next.
        """
        trip_ns, offset_ns = min(self._compare_clocks() for _ in range(CLOCK_SAMPLES))
        self._offset_ns = 0 if abs(offset_ns) <= trip_ns // 2 + CLOCK_TOLERANCE_NS else offset_ns
        return self._offset_ns / 1e9

    def _compare_clocks(self) -> tuple[int, int]:
        """Return how long an answer took, and how far Redis's clock was ahead of ours in its middle, both in ns."""
        before_ns, started = clock.now_ns(), time.monotonic_ns()
        seconds, micros = checked(self.link.execute([command("TIME", key=None)])[0])
        trip_ns = time.monotonic_ns() - started
        redis_ns = int(seconds) * 1_000_000_000 + int(micros) * 1_000
        return trip_ns, redis_ns - (before_ns + trip_ns // 2)

    def pubsub(self) -> PubSub:
        """Return a new subscription connection; the caller closes it."""
        subscription: PubSub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        return subscription

    def close(self) -> None:
        """Close all connections."""
        self.client.close()
        if not isinstance(self.client, RedisCluster):
            self.client.connection_pool.disconnect()

"""Runs requests on Redis, one or many in a round trip, and knows Redis's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from redis import RedisCluster

from runqy import clock
from runqy.broker.connection import RedisTarget, connect_client, make_link
from runqy.broker.links import Reply, checked
from runqy.broker.scripts import Command, command
from runqy.errors import BrokerFull, BrokerRefused, BrokerUnavailable, RunqyError

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

A = TypeVar("A")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

CLOCK_SAMPLES = 3
CLOCK_TOLERANCE_NS = 5_000_000
"""Redis reads its clock once for all that it does in a round of its event loop."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T_co]):
    """A verb with its arguments: the commands it takes, and how to read their replies.

    The functions of `producing`, `consuming`, … return requests and ask Redis nothing, so that any of them can be run
    alone or together with others in one round trip.
    """

    commands: tuple[Command, ...]
    parse: Callable[[Sequence[Reply]], T_co]
    """Takes the replies of `commands`, none of them an error; returns the outcome or raises a RunqyError."""


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

    def run(self, request: Request[T]) -> T:
        """Run one request. Raises BrokerUnavailable, or what the verb documents."""
        return request.parse([checked(reply) for reply in self.link.execute(request.commands)])

    def run_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run many requests in one round trip; a request that fails has its error in its place.

        Raises BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
        """
        if not requests:
            return []
        replies = self.link.execute([c for request in requests for c in request.commands])
        outcomes: list[T | RunqyError] = []
        start = 0
        for request in requests:
            end = start + len(request.commands)
            outcomes.append(_outcome(request, replies[start:end]))
            start = end
        return outcomes

    def run_safely(self, request: Request[T]) -> T:
        """Run a request that does no harm when it runs twice, once more if its reply was lost. Raises as `run` does."""
        return _run_again_if_lost(self.run, request)

    def run_all_safely(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run many such requests, all once more if their replies were lost. Raises as `run_all` does."""
        return _run_again_if_lost(self.run_all, requests)

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


def raised(outcome: T | RunqyError) -> T:
    """Return an outcome of `Broker.run_all`, or raise the error that stands in its place."""
    if isinstance(outcome, RunqyError):
        raise outcome
    return outcome


def _run_again_if_lost(run: Callable[[A], T], what: A) -> T:
    """Run something, once more when nobody knows whether it ran."""
    try:
        return run(what)
    except (BrokerFull, BrokerRefused):
        raise
    except BrokerUnavailable:
        return run(what)


def _outcome(request: Request[T], replies: Sequence[Reply]) -> T | RunqyError:
    """Read the replies of one request among many."""
    try:
        return request.parse([checked(reply) for reply in replies])
    except RunqyError as error:
        return error

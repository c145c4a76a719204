"""Run requests and operations on Redis with blocking I/O, and keep its clock offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from redis import RedisCluster

from runqy.broker.connection.redis_client import RedisTarget, connect_client, make_connection
from runqy.broker.connection.redis_clock import RedisClock
from runqy.broker.operation import (
    BrokerContext,
    Effect,
    MemoryUse,
    Operation,
    Request,
    RequestBatch,
    ask_all,
    drive,
    raise_if_unknown,
)
from runqy.errors import BrokerFull, BrokerRefused, BrokerUnavailable, RunqyError

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

T = TypeVar("T")


class Broker:
    """Tasks and queues in Redis."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self.client = client
        self.connection = make_connection(client)
        self._clock = RedisClock()
        self._memory = MemoryUse(is_cluster=self.is_cluster)

    @classmethod
    def connect(cls, target: RedisTarget) -> Broker:
        """Return a broker for a target. A single server is not contacted before the first request."""
        return cls(connect_client(target))

    @property
    def is_cluster(self) -> bool:
        """Keys with different hash tags may be on different nodes."""
        return self.connection.is_cluster

    def run(self, work: Request[T] | Operation[T]) -> T:
        """Run a request or an operation and return its result. Raise BrokerUnavailable, or the errors it documents."""
        if isinstance(work, Request):
            requested: T = self._run(work)
            return requested
        return drive(work, self.perform)

    def perform(self, effect: Effect) -> Any:
        """Return the outcome of an effect that an operation yields. Raise BrokerUnavailable, or the errors it
        documents.
        """
        # The class itself, BrokerContext, is yielded to ask for one.
        return self.context() if isinstance(effect, type) else self._run(effect)

    def run_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run requests in one round trip; the result of a failed request is its error.

        Raise BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
        """
        return self.run(ask_all(requests))

    def _run(self, request: Request[Any] | RequestBatch) -> Any:
        try:
            replies = self.connection.execute(request.commands)
        except (BrokerFull, BrokerRefused):  # Redis replied: no reply was lost
            raise
        except BrokerUnavailable as error:
            # The commands may have run although their replies were lost. Only a request that may run twice is sent
            # again.
            if not request.is_repeatable:
                raise_if_unknown(request, error)
                raise
            try:
                return request.read(self.connection.execute(request.commands))
            except BrokerUnavailable as again:
                raise_if_unknown(request, error, again)
                raise
        return request.read(replies)

    def context(self) -> BrokerContext:
        return BrokerContext(now_ns=self.now_ns(), is_cluster=self.is_cluster, memory=self._memory)

    def now_ns(self) -> int:
        """Return Unix time in ns by Redis's clock, as it was last measured."""
        return self._clock.now_ns()

    def now_s(self) -> int:
        return self._clock.now_ns() // 1_000_000_000

    @property
    def has_clock_parted(self) -> bool:
        """Whether one of the clocks was set, so that `measure_clock` is due now."""
        return self._clock.has_parted

    def measure_clock(self) -> float:
        """Measure and return the offset of Redis's clock in s. Raise BrokerUnavailable."""
        return self.run(self._clock.measure())

    def pubsub(self) -> PubSub:
        """Return a new subscription connection; the caller closes it."""
        subscription: PubSub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        return subscription

    def close(self) -> None:
        self.client.close()
        if not isinstance(self.client, RedisCluster):
            self.client.connection_pool.disconnect()

"""Run requests and operations on an event loop; requests of the same loop iteration share a round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from runqy.broker.broker import RedisClock
from runqy.broker.connection.async_cluster import AsyncCluster
from runqy.broker.connection.async_connection import ConnectionLost
from runqy.broker.connection.async_connector import CONNECT_TIMEOUT_S, MAX_PENDING, REPLY_TIMEOUT_S, Connector
from runqy.broker.connection.async_node import AsyncNode
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.memory import MemoryUse
from runqy.broker.replies import Reply, ReplyLost
from runqy.broker.request import Request, RequestBatch, raise_if_unknown
from runqy.broker.scripts import Command
from runqy.errors import BrokerUnavailable, RunqyError

T = TypeVar("T")


class Router(Protocol):
    """Sends commands to the servers that own their keys."""

    async def execute(self, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        """Run commands and return their replies in order; error replies are returned, not raised.

        Raise BrokerUnavailable when Redis cannot be reached. After its subclass ReplyLost, any of the commands may
        have run.
        """

    async def close(self) -> None: ...


class AsyncBroker:
    """Tasks and queues in Redis, for the coroutines of one event loop."""

    def __init__(self, router: Router, *, is_cluster: bool, connector: Connector) -> None:
        self.is_cluster = is_cluster
        self.connector = connector
        self._router = router
        self._clock = RedisClock()
        # Unix time in ns by Redis's clock, as it was last measured. Workers read it several times for each task.
        self.now_ns = self._clock.now_ns
        self.memory = MemoryUse(is_cluster=self.is_cluster)

    @classmethod
    def connect(
        cls,
        target: RedisTarget,
        *,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_pending: int = MAX_PENDING,
    ) -> AsyncBroker:
        """Return a broker for a target. The connection is opened by the first request.

        `reply_timeout_s` is how long a connection may owe replies without receiving any, before it is closed.
        `max_pending` is the number of outstanding requests per connection; further requests raise BrokerBusy.
        """
        connector = Connector(
            target, reply_timeout_s=reply_timeout_s, connect_timeout_s=connect_timeout_s, max_pending=max_pending
        )
        is_cluster = target.mode == "cluster"
        router: Router
        if is_cluster:
            router = AsyncCluster(connector, max_pending=max_pending)
        else:
            router = AsyncNode(connector.open, max_pending=max_pending)
        return cls(router, is_cluster=is_cluster, connector=connector)

    async def send(self, request: Request[T]) -> T:
        """Return the outcome of a request. Raise BrokerUnavailable, or the errors it documents."""
        outcome: T = await self._run(request)
        return outcome

    async def send_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Return the outcomes of requests in one round trip; the outcome of a failed request is its error.

        Raise BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
        """
        if not requests:
            return []
        outcomes: list[T | RunqyError] = await self._run(RequestBatch(tuple(requests)))
        return outcomes

    async def _run(self, request: Request[Any] | RequestBatch) -> Any:
        commands = request.commands
        if not commands:
            return request.read(())
        try:
            replies = await self._router.execute(commands, is_bulky=request.is_bulky)
        except (ConnectionLost, ReplyLost) as error:
            # The commands may have run although their replies were lost. Only a request that may run twice is sent
            # again.
            if not request.may_repeat:
                raise_if_unknown(request, error)
                raise
            try:
                return request.read(await self._router.execute(commands, is_bulky=request.is_bulky))
            except BrokerUnavailable as again:
                raise_if_unknown(request, error, again)
                raise
        return request.read(replies)

    def now_s(self) -> int:
        return self._clock.now_ns() // 1_000_000_000

    @property
    def has_clock_parted(self) -> bool:
        """Whether one of the clocks was set, so that `measure_clock` is due now."""
        return self._clock.has_parted

    async def measure_clock(self) -> float:
        """Measure and return the offset of Redis's clock in s. Raise BrokerUnavailable."""
        return await self._clock.measure(self)

    async def close(self) -> None:
        """Close all connections; pending requests fail with BrokerUnavailable."""
        await self._router.close()

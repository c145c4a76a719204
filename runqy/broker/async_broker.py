"""Run requests and operations on an event loop; requests of the same loop iteration share a round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from runqy.broker.connection.async_cluster import AsyncCluster
from runqy.broker.connection.async_connection import ConnectionLost
from runqy.broker.connection.async_connector import CONNECT_TIMEOUT_S, MAX_PENDING, REPLY_TIMEOUT_S, Connector
from runqy.broker.connection.async_node import AsyncNode
from runqy.broker.memory import MemoryUse
from runqy.broker.redis_clock import RedisClock
from runqy.broker.replies import Reply, ReplyLost
from runqy.broker.request import Request, RequestBatch, raise_if_unknown
from runqy.broker.scripts import Command
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, RunqyError

T = TypeVar("T")


class Router(Protocol):
    """Sends commands to the servers that own their keys."""

    async def execute(self, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        """Run commands and return their replies in order; error replies are returned, not raised.

        Raise BrokerUnavailable when Redis cannot be reached. After its subclass ReplyLost, any of the commands may
        have run.
        """

    async def nodes(self) -> Mapping[str, AsyncNode]:
        """Return the servers that hold keys, by name. Raise BrokerUnavailable."""

    def node_of(self, key: str) -> str:
        """Return the name of the server that holds a key, as far as is known; empty if none does."""

    async def close(self) -> None: ...


class AsyncBroker:
    """Tasks and queues in Redis, for the coroutines of one event loop."""

    def __init__(self, make_router: Callable[[], Router], *, is_cluster: bool, connector: Connector) -> None:
        self.is_cluster = is_cluster
        self.connector = connector
        self._make_router = make_router
        self._router = make_router()
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
    ) -> Self:
        """Return a broker for a target. The connection is opened by the first request.

        `reply_timeout_s` is how long a connection may owe replies without receiving any, before it is closed.
        `max_pending` is the number of outstanding requests per connection; further requests raise BrokerBusy.
        """
        connector = Connector(
            target, reply_timeout_s=reply_timeout_s, connect_timeout_s=connect_timeout_s, max_pending=max_pending
        )
        is_cluster = target.mode == "cluster"

        def make_router() -> Router:
            if is_cluster:
                return AsyncCluster(connector, max_pending=max_pending)
            return AsyncNode(connector.open, max_pending=max_pending)

        return cls(make_router, is_cluster=is_cluster, connector=connector)

    def forget_connections(self) -> None:
        """Open other connections for the next requests, on another event loop. Those of a parent process are its."""
        self._router = self._make_router()

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

    async def nodes(self) -> list[str]:
        """Return the names of the servers that hold keys; that of a single one is empty. Raise BrokerUnavailable."""
        return list(await self._router.nodes())

    def node_of(self, key: str) -> str:
        """Return the name of the server that holds a key. The caller has called `nodes`."""
        return self._router.node_of(key)

    async def send_to(self, node: str, request: Request[T]) -> T:
        """Return the outcome of a request on one of the servers that hold keys.

        Raise BrokerUnavailable, also if the server is no longer one of them, or the errors it documents.
        """
        found = (await self._router.nodes()).get(node)
        if found is None:
            raise BrokerUnavailable(reason=f"{node} holds no keys of its cluster any more")
        replies, lost = await self._exchange(request, found.execute)
        outcome: T = self.read_replies(request, replies, lost)
        return outcome

    async def _run(self, request: Request[Any] | RequestBatch) -> Any:
        replies, lost = await self._exchange(request, self._router.execute)
        return self.read_replies(request, replies, lost)

    async def exchange(self, request: Request[Any] | RequestBatch) -> tuple[list[Reply], BrokerUnavailable | None]:
        """Return what `read_replies` takes. Raise BrokerUnavailable."""
        return await self._exchange(request, self._router.execute)

    @staticmethod
    async def _exchange(
        request: Request[Any] | RequestBatch, execute: Callable[..., Awaitable[list[Reply]]]
    ) -> tuple[list[Reply], BrokerUnavailable | None]:
        """Return the replies, and the error of a first attempt after which the request was sent again."""
        commands = request.commands
        if not commands:
            return [], None
        try:
            return await execute(commands, is_bulky=request.is_bulky), None
        except (ConnectionLost, ReplyLost) as error:
            # The commands may have run although their replies were lost. Only a request that may run twice is sent
            # again.
            if not request.may_repeat:
                raise_if_unknown(request, error)
                raise
            try:
                return await execute(commands, is_bulky=request.is_bulky), error
            except BrokerUnavailable as again:
                raise_if_unknown(request, error, again)
                raise

    @staticmethod
    def read_replies(
        request: Request[Any] | RequestBatch, replies: Sequence[Reply], lost: BrokerUnavailable | None
    ) -> Any:
        """Return the outcome of a request. Raise BrokerUnavailable, or the errors it documents."""
        try:
            return request.read(replies)
        except BrokerUnavailable as again:
            if lost is not None:
                raise_if_unknown(request, lost, again)
            raise

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

"""Run requests and operations on an event loop; requests of the same loop iteration share a round trip.

Times are those of Redis's clock, which all processes share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from runqy import clock
from runqy.broker.connection.async_cluster import AsyncCluster
from runqy.broker.connection.async_connection import ConnectionLost
from runqy.broker.connection.async_connector import CONNECT_TIMEOUT_S, MAX_PENDING, REPLY_TIMEOUT_S, Connector
from runqy.broker.connection.async_node import AsyncNode
from runqy.broker.memory import MemoryUse
from runqy.broker.replies import Reply, ReplyLost, is_unavailable
from runqy.broker.request import AnyBroker, Request, RequestBatch
from runqy.broker.scripts import Command, command
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, RunqyError

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


T = TypeVar("T")
_LOST = (ConnectionLost, ReplyLost)


class Router(Protocol):
    """Sends commands to the servers that own their keys."""

    async def execute(self, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        """Run commands and return their replies in order. Errors are returned, not raised.

        The reply of a command whose server cannot be reached is BrokerUnavailable: after its subclass ReplyLost, the
        command may have run.
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

        Raise BrokerUnavailable when no server that they need can be reached, OutcomeUnknown if one may have run.
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
        outcome: T = request.read(await self._exchange(request, found.execute))
        return outcome

    async def _run(self, request: Request[Any] | RequestBatch) -> Any:
        return request.read(await self._exchange(request, self._router.execute))

    async def exchange(self, request: Request[Any] | RequestBatch) -> list[Reply]:
        """Return what the `read` of a request takes, which may be called on another thread."""
        return await self._exchange(request, self._router.execute)

    @staticmethod
    async def _exchange(
        request: Request[Any] | RequestBatch, execute: Callable[..., Awaitable[list[Reply]]]
    ) -> list[Reply]:
        """Return the replies. What was lost with a connection is sent again, once, if the request may be repeated."""
        commands = request.commands
        if not commands:
            return []
        replies = await execute(commands, is_bulky=request.is_bulky)
        for reply in replies:
            if isinstance(reply, _LOST):
                break
        else:
            return replies
        if request.may_repeat:
            lost = [i for i, reply in enumerate(replies) if isinstance(reply, _LOST)]
            again = await execute([commands[i] for i in lost], is_bulky=request.is_bulky)
            for index, reply in zip(lost, again, strict=True):
                # Where the second attempt was refused, the first may have run.
                if not (isinstance(replies[index], ReplyLost) and is_unavailable(reply)):
                    replies[index] = reply
        return replies

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

"""Run requests and operations on Redis from threads, which wait for the process's event loop."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.request import Request, RequestBatch
from runqy.core.concurrency.event_loop import DeadlineExceeded, LoopStopped, LoopThread, loop_thread
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, OutcomeUnknown, RunqyError

T = TypeVar("T")

DEADLINE_S = 60.0
"""How long a request or an operation may take altogether. Each request has its own, shorter limits."""


class Broker:
    """Tasks and queues in Redis, for threads.

    All threads of the process share its connections, which are no other program's: bulk work of threads does not make
    the data plane wait.
    """

    def __init__(self, target: RedisTarget) -> None:
        """Open no connection before the first request."""
        self.target = target
        self.is_cluster = target.mode == "cluster"
        """Keys with different hash tags may be on different nodes."""
        self.on_loop = AsyncBroker.connect(target)
        """The same, for coroutines on the process's event loop that `run` was given. Other threads do not use it."""
        self._loop: LoopThread | None = None
        self.memory = self.on_loop.memory

    def run(self, work: Request[T] | Coroutine[Any, Any, T], *, deadline_s: float = DEADLINE_S) -> T:
        """Return the outcome of a request, or of an operation that was called with this broker.

        Raise BrokerUnavailable, or the errors that it documents. After `deadline_s` it is cancelled: OutcomeUnknown if
        it may have written.
        """
        if isinstance(work, Request):
            outcome: T = self._run(work, deadline_s)
            return outcome
        try:
            return self._loop_thread().run(work, deadline_s)
        except LoopStopped:
            raise BrokerUnavailable(reason="the process ends") from None
        except DeadlineExceeded:
            raise OutcomeUnknown(reason=f"it took longer than {deadline_s:g} s") from None

    def run_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run requests in one round trip; the result of a failed request is its error.

        Raise BrokerUnavailable when no server that they need can be reached, OutcomeUnknown if one may have run.
        """
        outcomes: list[T | RunqyError] = self._run(RequestBatch(tuple(requests)), DEADLINE_S) if requests else []
        return outcomes

    async def send(self, request: Request[T]) -> T:
        """Return the outcome of a request of an operation. Raise BrokerUnavailable, or what its `parse` raises."""
        return await self.on_loop.send(request)

    async def send_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Return what `run_all` does, for an operation."""
        return await self.on_loop.send_all(requests)

    async def nodes(self) -> list[str]:
        """Return the names of the servers that hold keys; that of a single one is empty. Raise BrokerUnavailable."""
        return await self.on_loop.nodes()

    def node_of(self, key: str) -> str:
        """Return the name of the server that holds a key. The caller has called `nodes`."""
        return self.on_loop.node_of(key)

    async def send_to(self, node: str, request: Request[T]) -> T:
        """Return the outcome of a request on one of the servers that hold keys.

        Raise BrokerUnavailable, also if the server is no longer one of them, or the errors it documents.
        """
        return await self.on_loop.send_to(node, request)

    def now_ns(self) -> int:
        """Return Unix time in ns by Redis's clock, as it was last measured."""
        return self.on_loop.now_ns()

    def now_s(self) -> int:
        return self.now_ns() // 1_000_000_000

    def now(self) -> datetime:
        """Return the time by Redis's clock, which all processes share."""
        return datetime.fromtimestamp(self.now_ns() / 1e9, UTC)

    @property
    def has_clock_parted(self) -> bool:
        """Whether one of the clocks was set, so that `measure_clock` is due now."""
        return self.on_loop.has_clock_parted

    def measure_clock(self) -> float:
        """Measure and return the offset of Redis's clock in s. Raise BrokerUnavailable."""
        return self.run(self.on_loop.measure_clock())

    def close(self) -> None:
        """Close all connections; pending requests fail with BrokerUnavailable."""
        self.run(self.on_loop.close())
        self.on_loop.forget_connections()

    def _run(self, request: Request[Any] | RequestBatch, deadline_s: float) -> Any:
        try:
            replies = self._loop_thread().run(self.on_loop.exchange(request), deadline_s)
        except LoopStopped:
            raise BrokerUnavailable(reason="the process ends") from None
        except DeadlineExceeded:
            late = f"it took longer than {deadline_s:g} s"
            if any(command.may_write for command in request.commands):
                raise OutcomeUnknown(reason=late) from None
            raise BrokerUnavailable(reason=late) from None
        # On this thread, so that a large reply delays nobody else.
        return request.read(replies)

    def _loop_thread(self) -> LoopThread:
        """Return the process's event loop, to which the connections belong."""
        current = loop_thread()
        if current is not self._loop:
            if self._loop is not None:  # this process was forked
                self.on_loop.forget_connections()
            self._loop = current
        return current

"""Run requests and operations on Redis from threads, which wait for the process's event loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import WeakSet

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.request import Request, RequestBatch
from runqy.core.concurrency.event_loop import DeadlineExceeded, LoopStopped, loop_thread
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, OutcomeUnknown, RunqyError

T = TypeVar("T")

DEADLINE_S = 60.0
"""How long a request or an operation may take altogether. Each request has its own, shorter limits."""


class _Operation:
    """An operation that a thread waits for."""

    __slots__ = ("has_written",)

    def __init__(self) -> None:
        # It has sent, or was about to send, commands that may write.
        self.has_written = False


_operation: ContextVar[_Operation | None] = ContextVar("operation", default=None)


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
        self.memory = self.on_loop.memory
        _brokers.add(self)

    def run(self, work: Request[T] | Coroutine[Any, Any, T], *, deadline_s: float = DEADLINE_S) -> T:
        """Return the outcome of a request, or of an operation that was called with this broker.

        Raise BrokerUnavailable, or the errors that it documents. After `deadline_s`, and when the process ends, it is
        cancelled: OutcomeUnknown if it may have written.
        """
        if isinstance(work, Request):
            outcome: T = self._run(work, deadline_s)
            return outcome
        operation = _Operation()
        token = _operation.set(operation)
        try:
            return self._wait(work, deadline_s, lambda: operation.has_written)
        finally:
            _operation.reset(token)

    def run_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Run requests in one round trip; the result of a failed request is its error.

        Raise BrokerUnavailable when no server that they need can be reached, OutcomeUnknown if one may have run.
        """
        outcomes: list[T | RunqyError] = self._run(RequestBatch(tuple(requests)), DEADLINE_S) if requests else []
        return outcomes

    async def send(self, request: Request[T]) -> T:
        """Return the outcome of a request of an operation. Raise BrokerUnavailable, or what its `parse` raises."""
        _note(request)
        return await self.on_loop.send(request)

    async def send_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Return what `run_all` does, for an operation."""
        _note(*requests)
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
        _note(request)
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
        replies = self._wait(
            self.on_loop.exchange(request), deadline_s, lambda: any(command.may_write for command in request.commands)
        )
        # On this thread, so that a large reply delays nobody else.
        return request.read(replies)

    def _wait(self, work: Coroutine[Any, Any, T], deadline_s: float, may_have_written: Callable[[], bool]) -> T:
        try:
            return loop_thread().run(work, deadline_s)
        except LoopStopped as stopped:
            reason, has_begun = "the process ends", stopped.has_begun
        except DeadlineExceeded:
            reason, has_begun = f"it took longer than {deadline_s:g} s", True
        raise OutcomeUnknown(reason=reason) if has_begun and may_have_written() else BrokerUnavailable(reason=reason)


def _note(*requests: Request[Any]) -> None:
    """Remember that the operation which sends requests may have written."""
    operation = _operation.get()
    if operation is not None and not operation.has_written:
        operation.has_written = any(command.may_write for request in requests for command in request.commands)


_brokers: WeakSet[Broker] = WeakSet()


def _forget_connections() -> None:
    """Leave a parent's connections to it. A forked process has one thread here, so that nothing is sent meanwhile."""
    for broker in _brokers:
        broker.on_loop.forget_connections()


os.register_at_fork(after_in_child=_forget_connections)

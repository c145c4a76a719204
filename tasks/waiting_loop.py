"""Wait for tasks on threads, which block while the process's ResultWaiters wait on an event loop.

A process that serves requests on an event loop sets that loop. In others clients wait on the event loop on which their
threads run operations.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from django.conf import settings

from runqy.redis_connection import get_broker
from tasks.waiting import ResultWaiters, WaiterLimits

T = TypeVar("T")

LONGEST_WAIT_S = 24 * 3600.0
MAX_WAITING_THREADS = 16
"""How many threads waits may hold: under a plain WSGI server each wait holds one to its end."""
"""How long a thread waits for one coroutine. Waits and streams have limits of their own, which are shorter."""


class ClosableIterator(Protocol):
    """An asynchronous iterator that can be closed before its end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class WaitingLoop:
    """The event loop of the process's threads, with the clients that wait on it."""

    def __init__(self, waiters: ResultWaiters) -> None:
        self.waiters = waiters

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and block until it is done. Must not be called on the thread of the loop."""
        return get_broker().run(coroutine, deadline_s=LONGEST_WAIT_S)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run a coroutine on the loop, for a coroutine of the event loop of threads."""
        return coroutine


class ServingLoop(WaitingLoop):
    """An event loop that serves requests, and knows when their clients disconnect."""

    def __init__(self, waiters: ResultWaiters, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(waiters)
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and block until it is done. Must not be called on the thread of the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run a coroutine on the loop, for a coroutine of the event loop of threads."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))


class BlockingIterator:
    """Iterates, on a thread, over an asynchronous iterator of the loop."""

    def __init__(self, waiting: WaitingLoop, chunks: ClosableIterator) -> None:
        self._waiting = waiting
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._waiting.run(self._next())
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._waiting.run(self._chunks.aclose())

    async def _next(self) -> bytes | None:
        return await anext(aiter(self._chunks), None)


def waiter_limits() -> WaiterLimits:
    """Return how many clients of a process may wait. Those that hold a thread are at most half of Django's."""
    threads = min(MAX_WAITING_THREADS, max(1, settings.RUNQY_DJANGO_THREADS // 2))
    return WaiterLimits(total=settings.RUNQY_MAX_WAITERS, threads=threads)


_lock = threading.Lock()
_current: WaitingLoop | None = None


def get_waiting_loop() -> WaitingLoop:
    """Return the loop on which the clients of this process wait."""
    global _current  # noqa: PLW0603 (a process has one)
    with _lock:
        if _current is None:
            _current = WaitingLoop(ResultWaiters(get_broker().on_loop, waiter_limits()))
        return _current


def set_waiting_loop(waiting_loop: WaitingLoop | None) -> WaitingLoop | None:
    """Set the loop on which the clients of this process wait, and return the previous one."""
    global _current
    with _lock:
        previous, _current = _current, waiting_loop
    return previous


def _forget_waits() -> None:
    """Start anew in a forked process, whose threads have another event loop."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_waits)

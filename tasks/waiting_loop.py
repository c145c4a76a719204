"""Wait for tasks on threads, which block while the process's ResultWaiters wait on an event loop.

A process that serves requests on an event loop sets that loop. Others start one on a thread when the first client
waits.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from django.conf import settings

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection.redis_client import RedisTarget
from tasks.waiting import ResultWaiters, WaiterLimits

T = TypeVar("T")


class ClosableIterator(Protocol):
    """An asynchronous iterator that can be closed before its end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class WaitingLoop:
    """The event loop on which the clients of this process wait."""

    def __init__(self, waiters: ResultWaiters, loop: asyncio.AbstractEventLoop) -> None:
        self.waiters = waiters
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and block until it is done. Must not be called on the thread of the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


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


class WaitingThread(WaitingLoop):
    """A loop on a daemon thread, with its own broker."""

    def __init__(self, target: RedisTarget, limits: WaiterLimits) -> None:
        self._broker = AsyncBroker.connect(target)
        loop = asyncio.new_event_loop()
        super().__init__(ResultWaiters(self._broker, limits), loop)
        self._thread = threading.Thread(target=loop.run_forever, name="runqy-waiting", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all waits at once, then the thread."""
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self.waiters.close()
        await self._broker.close()


_lock = threading.Lock()
_current: WaitingLoop | None = None


def get_waiting_loop() -> WaitingLoop:
    """Return the loop on which the clients of this process wait. Start it if necessary."""
    global _current  # noqa: PLW0603 (a process has one)
    with _lock:
        if _current is None:
            limits = WaiterLimits(total=settings.RUNQY_MAX_WAITERS, threads=settings.RUNQY_WSGI_WAITERS)
            _current = WaitingThread(settings.REDIS_TARGET, limits)
        return _current


def set_waiting_loop(waiting_loop: WaitingLoop | None) -> WaitingLoop | None:
    """Set the loop on which the clients of this process wait, and return the previous one."""
    global _current
    with _lock:
        previous, _current = _current, waiting_loop
    return previous

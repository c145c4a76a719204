"""Threads for blocking code of an event loop: a bounded number, with a bounded queue for each kind of work."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import structlog

from runqy import clock
from runqy.errors import ServerBusy

T = TypeVar("T")

QUEUE_SIZE = 128
QUEUE_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class BoundedExecutor:
    """Starts one kind of work on the threads of a pool. Its queue is on the event loop, limited in length and time."""

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        pool: ThreadPoolExecutor | None = None,
        queue_size: int = QUEUE_SIZE,
        queue_timeout_s: float = QUEUE_TIMEOUT_S,
    ) -> None:
        """`threads` is how many it may use. Without a `pool`, it has one of its own."""
        self.name = name
        self.pool = pool or ThreadPoolExecutor(threads, thread_name_prefix=f"runqy-{name}")
        self._free = asyncio.Semaphore(threads)
        self._queued = 0
        self._queue_size, self._queue_timeout_s = queue_size, queue_timeout_s
        self._refused, self._log_at_s = 0, 0.0

    async def start(self, function: Callable[[], T]) -> Future[T]:
        """Start a function on a thread as soon as one is free. Raise ServerBusy if none is, or can be started, in time.

        The thread counts as busy until the function returns, even if the caller is cancelled.
        """
        if self._free.locked():
            await self._queue()
        else:
            await self._free.acquire()
        started: Future[T] = Future()
        loop = asyncio.get_running_loop()
        # Called on the pool's thread: asyncio's semaphore may be released on the loop only.
        started.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        try:
            self.pool.submit(_run, started, function)
        except (RuntimeError, MemoryError) as error:  # no thread can be started, or the process ends
            # The pool has queued the call before that, and another thread may have begun it.
            if started.cancel():
                raise self._refuse(str(error)) from error
        return started

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on a thread and return its result. Raise its errors, and ServerBusy."""
        return await asyncio.wrap_future(await self.start(function))

    async def _queue(self) -> None:
        if self._queued >= self._queue_size:
            raise self._refuse()
        self._queued += 1
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise self._refuse() from error
        finally:
            self._queued -= 1

    def _refuse(self, reason: str = "") -> ServerBusy:
        self._refused += 1
        # Logged at most once a second: under load each request would write a line.
        now_s = clock.monotonic_s()
        if now_s >= self._log_at_s:
            log.warning("executor_busy", executor=self.name, queued=self._queued, refused=self._refused, error=reason)
            self._refused, self._log_at_s = 0, now_s + 1
        return ServerBusy()


def _run(started: Future[T], function: Callable[[], T]) -> None:
    """Run a function on a thread, unless it was cancelled before."""
    if not started.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 (raised where the future is awaited)
        started.set_exception(error)
    else:
        started.set_result(result)


def make_reserved_executors(limits: Mapping[str, int]) -> dict[str, BoundedExecutor]:
    """Return, by name, executors on one pool with a thread for each work that may run at once."""
    pool = ThreadPoolExecutor(sum(limits.values()), thread_name_prefix="runqy-reserved")
    return {name: BoundedExecutor(name, threads=threads, pool=pool) for name, threads in limits.items()}

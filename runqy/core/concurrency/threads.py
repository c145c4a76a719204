"""Threads that do not keep the process from ending: for blocking calls and for waits.

A pool has one thread for each call in progress, used again, and ended when it had nothing to do.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from runqy.errors import ResourcesExhausted

T = TypeVar("T")


def start_thread(work: Callable[[], None]) -> None:
    """Raise ResourcesExhausted."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError as error:  # Python says no more of why the system refused it
        raise ResourcesExhausted(f"the machine is out of memory, or of processes and threads: {error}") from error


async def run_in_thread(job: Callable[[], T], start: Callable[[Callable[[], None]], None] = start_thread) -> T:
    """Run a function on a thread of its own, or as `start` does. Return its value or raise its error.

    Unlike with asyncio's executor, a thread that hangs keeps neither the loop nor the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_outcome(value: T | None, error: Exception | None) -> None:
        # The caller may have been cancelled.
        if future.done():
            return
        if error is None:
            future.set_result(value)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = job()
        except Exception as raised:  # noqa: BLE001 (raised where the future is awaited)
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop may have been closed
            loop.call_soon_threadsafe(set_outcome, value, error)

    start(work)
    return await future


async def wait_any(*events: asyncio.Event, timeout_s: float | None = None) -> bool:
    """Wait until one of several events is set. Return False on timeout."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)


Job = Callable[[], None]


class ThreadPool:
    """Runs jobs at once, each on a thread of its own, so that one that hangs makes no other one wait.

    The thread that became free last gets the next job: at rest, one is left.
    """

    def __init__(self, name: str, *, idle_s: float, on_end: Callable[[], None] = lambda: None) -> None:
        """A thread without a job for `idle_s` ends, after calling `on_end`."""
        self._name = name
        self._idle_s = idle_s
        self._on_end = on_end
        self._lock = threading.Lock()
        self._free: list[SimpleQueue[Job]] = []

    def start(self, job: Job) -> None:
        """Run a job, which handles its own errors."""
        with self._lock:
            inbox = self._free.pop() if self._free else None
        if inbox is None:
            inbox = SimpleQueue()
            # A daemon: a job that hangs does not keep the process from ending.
            threading.Thread(target=self._serve, args=[inbox], name=self._name, daemon=True).start()
        inbox.put(job)

    def _serve(self, inbox: SimpleQueue[Job]) -> None:
        try:
            while job := self._next_job(inbox):
                job()
                with self._lock:
                    self._free.append(inbox)
        finally:
            self._on_end()

    def _next_job(self, inbox: SimpleQueue[Job]) -> Job | None:
        """Return None if the thread is to end."""
        try:
            return inbox.get(timeout=self._idle_s)
        except Empty:
            with self._lock:
                if inbox in self._free:
                    self._free.remove(inbox)
                    return None
        return inbox.get()  # it has just been promised one

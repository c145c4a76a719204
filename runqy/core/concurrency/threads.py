"""Run blocking calls on threads that do not keep the process from ending, and wait for events."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def start_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


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

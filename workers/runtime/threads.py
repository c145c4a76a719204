"""Runs what waits for other machines on threads that do not hold up the end of the process."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(job: Callable[[], T]) -> T:
    """Run a job on a thread of its own and return its value or raise its error.

    Unlike asyncio's executor, a thread that hangs is left behind when the worker ends.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
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
        except Exception as raised:  # noqa: BLE001 (it is raised again where it is awaited)
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed when the worker itself ends
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, daemon=True).start()
    return await future


async def first_of(*events: asyncio.Event, timeout_s: float | None = None) -> bool:
    """Wait until one of some events is set; returns False when the time is over before."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)

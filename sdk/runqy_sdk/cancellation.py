"""Whether a task was cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Cancellation:
    """True once the task was cancelled or has timed out. Coroutines can await it."""

    # On the class, since every task has one of these and few are cancelled.
    _is_set = False
    _waiters: list[asyncio.Future[None]] | None = None

    def __bool__(self) -> bool:
        return self._is_set

    def __repr__(self) -> str:
        return repr(self._is_set)

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    def set(self) -> None:
        self._is_set = True
        for waiter in list(self._waiters or ()):
            # From the thread that reads what the worker sends, which goes on if a handler has closed its loop.
            with contextlib.suppress(RuntimeError):
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def _wait(self) -> None:
        import asyncio  # noqa: PLC0415 (slow, and only coroutines get here)

        waiter = asyncio.get_running_loop().create_future()
        self._waiters = waiters = self._waiters or []
        waiters.append(waiter)
        try:
            if not self._is_set:  # looked at after the waiter can be found
                await waiter
        finally:
            waiters.remove(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

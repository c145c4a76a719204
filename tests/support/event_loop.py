"""Runs coroutines in tests, in asyncio's debug mode."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection import RedisTarget

T = TypeVar("T")


def run_with_broker(target: RedisTarget, act: Callable[[AsyncBroker], Awaitable[T]], **options: Any) -> T:
    """Run a coroutine with a broker of its own."""

    async def main() -> T:
        broker = AsyncBroker.connect(target, **options)
        try:
            return await act(broker)
        finally:
            await broker.close()

    return asyncio.run(main(), debug=True)


async def wait_until(is_so: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return as soon as a condition holds, letting the loop work meanwhile. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.005)

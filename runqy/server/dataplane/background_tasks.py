"""Background tasks of a web process: load the snapshot, measure the clock, flush key uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from django.db import connections

from runqy import clock
from runqy.accounts.identities import write_uses
from runqy.broker.async_broker import AsyncBroker
from runqy.configuration import snapshot
from runqy.configuration.snapshot import Snapshot, get_cache
from runqy.core.concurrency.executors import BoundedExecutor
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, ServerBusy

FLUSH_EVERY_S = 5.0
MEASURE_CLOCK_EVERY_S = 5.0
CHECK_CLOCK_EVERY_S = 0.5
EXTRA_REFRESH_EVERY_S = 1.0
"""The minimum interval of refreshes for names that are not in the snapshot: any client can send such names."""
EXTRA_REFRESH_WAIT_S = 1.0
"""How long a request waits for such a refresh, even if its thread does not get on."""

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """Loads the snapshot, and repeats what a web process has to do on its event loop."""

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self._executor = BoundedExecutor("refresh", threads=1)
        self._refreshing: asyncio.Task[None] | None = None
        self._last_extra_s = float("-inf")
        self._clock_failures = FailureLog("clock_measured")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the snapshot, and run the tasks until the block ends."""
        snapshot.start_polling()
        await self._executor.run(partial(_refresh, snapshot.get_snapshot))
        loops = (
            (self._flush_key_uses, FLUSH_EVERY_S),
            (self._measure_clock, MEASURE_CLOCK_EVERY_S),
            (self._check_clock, CHECK_CLOCK_EVERY_S),
        )
        await self._measure_clock()
        tasks = [asyncio.create_task(_repeat(function, seconds)) for function, seconds in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._flush_key_uses()

    async def refresh_for_unknown(self) -> bool:
        """Refresh for a name that is not in the snapshot; return whether the snapshot changed.

        Concurrent requests share one refresh, which takes UNKNOWN_WAIT_S at most.
        """
        before = None if get_cache().is_empty else get_cache().current()
        if self._refreshing is None:
            if clock.monotonic_s() - self._last_extra_s < EXTRA_REFRESH_EVERY_S:
                return False
            self._last_extra_s = clock.monotonic_s()
            self._refreshing = asyncio.create_task(self._refresh_newest())
        # Not awaited directly: a request that is cancelled would cancel the refresh that others wait for.
        await asyncio.wait([self._refreshing], timeout=EXTRA_REFRESH_WAIT_S)
        return not get_cache().is_empty and get_cache().current() is not before

    async def _refresh_newest(self) -> None:
        try:
            with suppress(ServerBusy):
                await self._executor.run(partial(_refresh, snapshot.get_newest))
        finally:
            self._refreshing = None

    async def _flush_key_uses(self) -> None:
        await write_uses(self._broker)

    async def _check_clock(self) -> None:
        if self._broker.has_clock_parted:
            await self._measure_clock()

    async def _measure_clock(self) -> None:
        try:
            await self._broker.measure_clock()
        except BrokerUnavailable as error:
            self._clock_failures.record("clock_not_measured", key=error.code, error=str(error))
        else:
            self._clock_failures.record_success()


def _refresh(read: Callable[[], Snapshot]) -> None:
    """Refresh the snapshot on a thread, and close the database connections that the thread opened."""
    try:
        read()
    except ConfigurationUnavailable:
        pass
    finally:
        connections.close_all()


async def _repeat(function: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await function()
        except Exception:  # a bug is logged, and must not end the loop
            log.exception("background_task_failed", task=getattr(function, "__name__", ""))

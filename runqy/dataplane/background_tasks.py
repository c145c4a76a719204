"""Background tasks of a web process: refresh the snapshot, measure the clock, flush key uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import structlog
from django.db import connections

from runqy import clock
from runqy.accounts import last_used
from runqy.broker.async_broker import AsyncBroker
from runqy.config_sync import polling, snapshot
from runqy.config_sync.snapshot import MAX_WAIT_S, get_cache
from runqy.errors import BrokerUnavailable
from runqy.failure_log import FailureLog

REFRESH_EVERY_S = 1.0
FLUSH_EVERY_S = 5.0
MEASURE_CLOCK_EVERY_S = 5.0
CHECK_CLOCK_EVERY_S = 0.5
EXTRA_REFRESH_EVERY_S = 1.0
"""The minimum interval of extra refreshes for names that are not in the snapshot."""

log = structlog.get_logger(__name__)


class SnapshotRefresher:
    """Refreshes the snapshot from Redis once a second, and at once for an unknown key or queue.

    It runs on a thread: verifying and decoding thousands of documents would block the event loop.
    """

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="runqy-snapshot")
        self._refreshing: asyncio.Future[None] | None = None
        self._last_extra_s = float("-inf")
        self._clock_failures = FailureLog("clock_measured")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the snapshot, and refresh it until the block ends."""
        if get_cache().is_empty:
            await asyncio.to_thread(_load_stored)
        polling.ensure_started()
        await self._refresh()
        loops = (
            (self._refresh, REFRESH_EVERY_S),
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
            self._thread.shutdown(wait=False)

    async def refresh_for_unknown(self) -> bool:
        """Refresh for a name that is not in the snapshot, and return whether the snapshot changed.

        Requests share a refresh and wait at most MAX_WAIT_S for it: any client can send unknown names.
        """
        before = None if get_cache().is_empty else get_cache().current()
        refreshing = self._refreshing
        if refreshing is None:
            if clock.monotonic_s() - self._last_extra_s < EXTRA_REFRESH_EVERY_S:
                return False
            self._last_extra_s = clock.monotonic_s()
            refreshing = self._start_refresh()
        await asyncio.wait([refreshing], timeout=MAX_WAIT_S)
        return not get_cache().is_empty and get_cache().current() is not before

    async def _refresh(self) -> None:
        await (self._refreshing or self._start_refresh())

    def _start_refresh(self) -> "asyncio.Future[None]":
        self._refreshing = asyncio.get_running_loop().run_in_executor(self._thread, snapshot.refresh)
        self._refreshing.add_done_callback(self._end_refresh)
        return self._refreshing

    def _end_refresh(self, _: "asyncio.Future[None]") -> None:
        self._refreshing = None

    async def _flush_key_uses(self) -> None:
        await self._broker.run(last_used.flush_uses())

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


def _load_stored() -> None:
    """Load the snapshot from the database, and close the thread's connection."""
    try:
        get_cache().load_stored()
    finally:
        connections.close_all()


async def _repeat(function: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Call a function periodically; a bug is logged and does not stop the loop."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await function()
        except Exception:  # the supervisor of a loop that must not end
            log.exception("background_task_failed", task=getattr(function, "__name__", ""))

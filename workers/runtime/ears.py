"""Hears of work, cancelled tasks and changed queues, and tells the event loop."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable

from runqy.broker.broker import Broker
from runqy.broker.notices import Notice, read_notice, worker_channels
from runqy.broker.waking import Listener
from workers.runtime.threads import in_thread


class Ears:
    """One subscription, on the broker it was opened with."""

    def __init__(self, broker: Broker, *, wake_token: str, on_notice: Callable[[Notice, str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._on_notice = on_notice
        self._channels = worker_channels(wake_token)
        self._listener = Listener(broker, self._hear, self._miss)

    async def open(self) -> None:
        """Listen from now on; what is said before Redis confirms may be missed, and is made up for by the poll."""
        self._listener.start()
        await in_thread(lambda: self._listener.subscribe(self._channels))

    async def close(self) -> None:
        """Stop listening."""
        await in_thread(self._listener.close)

    def _hear(self, channel: str, data: bytes) -> None:
        self._tell(*read_notice(channel, data))

    def _miss(self) -> None:
        """Look for what may have been said while nobody listened."""
        self._tell(Notice.GAP, "")

    def _tell(self, notice: Notice, subject: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed when the worker itself ends
            self._loop.call_soon_threadsafe(self._on_notice, notice, subject, context=self._context)

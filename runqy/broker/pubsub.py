"""Subscribes to Redis channels on an event loop, over one connection that is kept open.

Workers receive wake-ups and cancellations this way, web processes the ends of tasks. What is published while the
connection is down is lost; subscribers poll as well, and are notified of a gap.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.async_connection import AsyncConnection, pack
from runqy.broker.async_connector import Connector
from runqy.broker.async_node import reconnect_delay_s
from runqy.broker.connection import RedisTarget
from runqy.broker.keys import ended_channel
from runqy.broker.links import Reply, translated
from runqy.errors import RunqyError

QUIET_S = 15.0
"""After how much silence the connection is tried."""
DEAD_S = 25.0
"""After how much silence it counts as broken."""
CHANNELS_AT_ONCE = 500

_log = structlog.get_logger(__name__)


class Subscriber:
    """Calls back, on the event loop, for what is published on the channels that are subscribed to."""

    def __init__(
        self,
        source: AsyncBroker | RedisTarget,
        *,
        on_message: Callable[[str, bytes], None],
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        """Take what to call for a message, and what to call when some may have been missed. Neither may block."""
        self._connector = source.connector if isinstance(source, AsyncBroker) else Connector(source)
        self._on_message = on_message
        self._on_gap = on_gap
        self._wanted: Counter[str] = Counter()
        self._unconfirmed: Counter[str] = Counter()
        """How many confirmations are due on this connection, for each channel."""
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_gap = False
        self._failures = 0
        """How often in a row the connection was lost, or refused, before anything was received."""
        self._heard_s = 0.0

    async def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Close the connection; nothing is called back any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def subscribe(self, channels: Iterable[str], *, timeout_s: float = 1.0) -> bool:
        """Subscribe to channels until as many calls of `unsubscribe`; wait until Redis confirmed it.

        False: it did not in time. The channels stay subscribed to, but a message that was published meanwhile may be
        missed. They are counted from the call on, also when the caller is cancelled while it waits.
        """
        names = tuple(channels)
        new = []
        for name in names:
            self._wanted[name] += 1
            if self._wanted[name] == 1:
                new.append(name)
        self._request(new)
        due = [self._confirmations[name] for name in names if name in self._confirmations]
        if not due:
            return True
        _, late = await asyncio.wait(due, timeout=timeout_s)
        return not late

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Undo one subscription of each channel."""
        ended = []
        for name in channels:
            self._wanted[name] -= 1
            if self._wanted[name] <= 0:
                del self._wanted[name]
                self._confirmations.pop(name, None)
                ended.append(name)
        if ended and self._connection is not None:
            self._connection.push([pack(("UNSUBSCRIBE", *ended))])

    async def _run(self) -> None:
        """Connect and listen, again and again, until cancelled."""
        while True:
            try:
                connection = await self._connector.open(on_push=self._receive)
            except RunqyError as error:
                self._note_failure(error.detail)
            else:
                self._note_failure(await self._listen(connection))
            await asyncio.sleep(reconnect_delay_s(self._failures))

    def _note_failure(self, reason: str) -> None:
        """Remember that messages may be missed."""
        self._has_gap = True
        self._failures += 1
        if self._failures == 1:
            _log.warning("subscriber_disconnected", error=reason)

    async def _listen(self, connection: AsyncConnection) -> str:
        """Subscribe to all that is wanted and stay until the connection is lost; return why it was."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[str] = loop.create_future()
        connection.on_lost = lambda _, reason: lost.set_result(reason)
        self._connection = connection
        self._unconfirmed.clear()
        self._heard_s = loop.time()
        self._request(list(self._wanted))
        self._end_gap()
        try:
            while connection.is_open:
                await asyncio.wait([lost], timeout=QUIET_S / 3)
                silent_s = loop.time() - self._heard_s
                if silent_s > DEAD_S:
                    connection.close("Redis cannot be reached: the connection went silent.")
                elif silent_s > QUIET_S:
                    connection.push([pack(("PING",))])
        finally:
            self._connection = None
            connection.on_lost = None
            connection.close("The subscriber was closed.")
            self._request(list(self._wanted))
        return lost.result() if lost.done() else "The connection was lost."

    def _request(self, names: list[str]) -> None:
        """Subscribe to channels now, or on the next connection if there is none."""
        for name in names:
            if name not in self._confirmations:
                self._confirmations[name] = asyncio.get_running_loop().create_future()
        if self._connection is None:
            return
        for start in range(0, len(names), CHANNELS_AT_ONCE):
            some = names[start : start + CHANNELS_AT_ONCE]
            self._unconfirmed.update(some)
            self._connection.push([pack(("SUBSCRIBE", *some))])

    def _receive(self, reply: Reply) -> None:
        """Pass a message on, or note a confirmation."""
        if isinstance(reply, Exception):
            if self._connection is not None:
                self._connection.close(translated(reply).detail)
            return
        self._heard_s = asyncio.get_running_loop().time()
        self._failures = 0
        if isinstance(reply, list) and reply[0] == b"message":
            self._on_message(reply[1].decode("utf-8", "replace"), reply[2])
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._confirm(reply[1].decode("utf-8", "replace"))

    def _confirm(self, name: str) -> None:
        """Note that Redis subscribed to a channel; after a reconnection, the last one ends the gap."""
        self._unconfirmed[name] -= 1
        if self._unconfirmed[name] > 0:
            return
        del self._unconfirmed[name]
        confirmation = self._confirmations.pop(name, None)
        if confirmation is not None:
            confirmation.set_result(None)
        self._end_gap()

    def _end_gap(self) -> None:
        """Report the gap that ends when all channels are subscribed to again."""
        if self._has_gap and not self._unconfirmed:
            self._has_gap = False
            if self._on_gap is not None and self._wanted:
                self._on_gap()


class TaskEndSubscriber:
    """Calls back with the ids of tasks that end, of those that are watched.

    Ends may be missed while the connection is down, and not all workers publish them: callers poll as well.
    """

    def __init__(self, source: AsyncBroker | RedisTarget, *, on_end: Callable[[str], None]) -> None:
        prefix = ended_channel("")
        self._subscriber = Subscriber(source, on_message=lambda channel, _: on_end(channel.removeprefix(prefix)))

    async def start(self) -> None:
        """Begin to connect."""
        await self._subscriber.start()

    async def close(self) -> None:
        """Close the connection; nothing is called back any more."""
        await self._subscriber.close()

    async def watch(self, task_id: str) -> None:
        """Watch a task until as many calls of `unwatch`; return once Redis confirmed it, or after a second without."""
        await self._subscriber.subscribe([ended_channel(task_id)])

    def unwatch(self, task_id: str) -> None:
        """Undo one `watch`."""
        self._subscriber.unsubscribe([ended_channel(task_id)])

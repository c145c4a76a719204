"""The connections to Redis that all queues of a worker process share."""

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from runqy import clock
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection import RedisTarget
from runqy.broker.notices import Notice, read_notice, worker_channels
from runqy.broker.pubsub import Subscriber

TASKS_TIMEOUT_S = 10.0
"""After how long without progress a request that carries tasks or results fails; either may have 32 MiB."""
LEASES_TIMEOUT_S = 5.0
CLOCK_VALID_S = 1.0
"""How long a measurement of Redis's clock serves all queues."""


@dataclass(frozen=True, eq=False)
class Listener:
    """Receives the notices for one queue, in the context that it was made in."""

    wake_token: str
    on_notice: Callable[[Notice, str], None]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


class RedisConnections:
    """The connections to one Redis. A slow result must not delay leases, so these have a connection of their own."""

    def __init__(self, target: RedisTarget, *, on_close: Callable[[], object] = lambda: None) -> None:
        self.tasks = AsyncBroker.connect(target, reply_timeout_s=TASKS_TIMEOUT_S)
        self.leases = AsyncBroker.connect(target, reply_timeout_s=LEASES_TIMEOUT_S)
        """Extends leases and sends heartbeats; its clock is that of all."""
        self._on_close = on_close
        self._users = 0
        self._subscriber = Subscriber(self.leases, on_message=self._receive, on_gap=self._report_gap)
        self._is_subscribed = False
        self._listeners: dict[str, list[Listener]] = defaultdict(list)
        """By channel."""
        self._loop = asyncio.get_running_loop()
        self._clock_lock = asyncio.Lock()
        self._measured_s = float("-inf")

    async def acquire(self) -> None:
        """Count a user once Redis is reachable and its clock is known. Raises BrokerUnavailable."""
        self._users += 1
        try:
            await self.measure_clock()
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Undo `acquire`; after the last user the connections are closed, and what is pending fails."""
        self._users -= 1
        if self._users == 0:
            self._on_close()
            await self._subscriber.close()
            await self.tasks.close()
            await self.leases.close()

    def now_ns(self) -> int:
        """Return Unix time in ns by Redis's clock."""
        return self.leases.now_ns()

    async def measure_clock(self) -> None:
        """Compare Redis's clock with ours, unless that was done a moment ago. Raises BrokerUnavailable."""
        async with self._clock_lock:
            if clock.monotonic_s() - self._measured_s >= CLOCK_VALID_S:
                await self.leases.measure_clock()
                self._measured_s = clock.monotonic_s()

    async def listen(self, listener: Listener) -> None:
        """Pass notices to a listener. What is published before Redis confirms may be missed; workers poll as well."""
        channels = worker_channels(listener.wake_token)
        for channel in channels:
            self._listeners[channel].append(listener)
        if not self._is_subscribed:
            self._is_subscribed = True
            await self._subscriber.start()
        await self._subscriber.subscribe(channels)

    def stop_listening(self, listener: Listener) -> None:
        """Undo `listen`, if it was called."""
        channels = worker_channels(listener.wake_token)
        if listener not in self._listeners[channels[0]]:
            return
        for channel in channels:
            self._listeners[channel].remove(listener)
        self._subscriber.unsubscribe(channels)

    def _receive(self, channel: str, data: bytes) -> None:
        """Pass a message to the listeners of its channel."""
        notice, subject = read_notice(channel, data)
        for listener in self._listeners.get(channel, ()):
            self._loop.call_soon(listener.on_notice, notice, subject, context=listener.context)

    def _report_gap(self) -> None:
        """Let every listener look for what may have been published while there was no connection."""
        for listener in {listener for listeners in self._listeners.values() for listener in listeners}:
            self._loop.call_soon(listener.on_notice, Notice.GAP, "", context=listener.context)


class ConnectionRegistry:
    """Opens one set of connections for each Redis, however many queues use it."""

    def __init__(self) -> None:
        self._open: dict[RedisTarget, RedisConnections] = {}

    async def acquire(self, target: RedisTarget) -> RedisConnections:
        """Return the connections to a Redis, which is reachable and whose clock is known. Raises BrokerUnavailable.

        The caller releases them.
        """
        connections = self._open.get(target)
        if connections is None:
            connections = self._open[target] = RedisConnections(target, on_close=lambda: self._open.pop(target))
        await connections.acquire()
        return connections

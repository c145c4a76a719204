"""The connections to Redis that all queues of a worker process share."""

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from runqy import clock
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.pubsub import Subscriber, WorkerEvent, parse_worker_event, worker_channels

TASKS_TIMEOUT_S = 10.0
"""After how long without progress a request with tasks or results fails; each may have 32 MiB."""
LEASES_TIMEOUT_S = 5.0
CLOCK_VALID_S = 1.0
"""How long a measurement of Redis's clock is valid for all queues."""


@dataclass(frozen=True, eq=False)
class WorkerSubscription:
    """Receives the events for one queue, in the context in which it was created."""

    wake_token: str
    on_event: Callable[[WorkerEvent, str], None]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


class RedisConnections:
    """The connections to one Redis. Leases have their own connection, so that slow results do not delay them."""

    def __init__(self, target: RedisTarget, *, on_close: Callable[[], object] = lambda: None) -> None:
        self.tasks = AsyncBroker.connect(target, reply_timeout_s=TASKS_TIMEOUT_S)
        self.leases = AsyncBroker.connect(target, reply_timeout_s=LEASES_TIMEOUT_S)
        """Extends leases and sends heartbeats; its clock is used by all."""
        self._on_close = on_close
        self._users = 0
        self._subscriber = Subscriber(self.leases, on_message=self._receive, on_gap=self._report_gap)
        self._is_subscribed = False
        self._listeners: dict[str, list[WorkerSubscription]] = defaultdict(list)
        """By channel."""
        self._loop = asyncio.get_running_loop()
        self._clock_lock = asyncio.Lock()
        self._measured_s = float("-inf")

    async def acquire(self) -> None:
        """Count a user once Redis is reachable and its clock is known. Raise BrokerUnavailable."""
        self._users += 1
        try:
            await self.measure_clock()
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Undo `acquire`; after the last user the connections are closed, and pending requests fail."""
        self._users -= 1
        if self._users == 0:
            self._on_close()
            await self._subscriber.close()
            await self.tasks.close()
            await self.leases.close()

    def now_ns(self) -> int:
        return self.leases.now_ns()

    async def measure_clock(self) -> None:
        """Measure Redis's clock, unless it was measured a moment ago. Raise BrokerUnavailable."""
        async with self._clock_lock:
            if clock.monotonic_s() - self._measured_s >= CLOCK_VALID_S or self.leases.has_clock_parted:
                await self.leases.measure_clock()
                self._measured_s = clock.monotonic_s()

    async def listen(self, listener: WorkerSubscription) -> None:
        """Pass events to a subscription. Messages may be missed until Redis confirms; workers poll as well."""
        channels = worker_channels(listener.wake_token)
        for channel in channels:
            self._listeners[channel].append(listener)
        if not self._is_subscribed:
            self._is_subscribed = True
            await self._subscriber.start()
        await self._subscriber.subscribe(channels)

    def unsubscribe(self, listener: WorkerSubscription) -> None:
        """Undo `listen`, if it was called."""
        channels = worker_channels(listener.wake_token)
        if listener not in self._listeners[channels[0]]:
            return
        for channel in channels:
            self._listeners[channel].remove(listener)
        self._subscriber.unsubscribe(channels)

    def _receive(self, channel: str, data: bytes) -> None:
        """Pass a message to the subscriptions to its channel."""
        notice, subject = parse_worker_event(channel, data)
        for listener in self._listeners.get(channel, ()):
            self._loop.call_soon(listener.on_event, notice, subject, context=listener.context)

    def _report_gap(self) -> None:
        """Notify every subscription that messages may have been missed."""
        for listener in {listener for listeners in self._listeners.values() for listener in listeners}:
            self._loop.call_soon(listener.on_event, WorkerEvent.GAP, "", context=listener.context)


class ConnectionRegistry:
    """Opens one set of connections for each Redis, for any number of queues."""

    def __init__(self) -> None:
        self._open: dict[RedisTarget, RedisConnections] = {}

    async def acquire(self, target: RedisTarget) -> RedisConnections:
        """Return the connections to a Redis that is reachable and whose clock is known. Raise BrokerUnavailable.

        The caller releases them.
        """
        connections = self._open.get(target)
        if connections is None:
            connections = self._open[target] = RedisConnections(target, on_close=lambda: self._open.pop(target))
        await connections.acquire()
        return connections

"""The connections to Redis that all queues of a worker process share."""

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from runqy import clock
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.pubsub import Subscriber, WorkerEvent, parse_worker_event, worker_channels
from runqy.core.environment.connection_urls import RedisTarget

TASKS_TIMEOUT_S = 10.0
"""How long a request may go without progress. Requests with tasks or results may have 32 MiB each."""
LEASES_TIMEOUT_S = 5.0
CLOCK_VALID_S = 1.0
"""How long the queues of a process share one measurement of Redis's clock."""


@dataclass(frozen=True, eq=False)
class WorkerSubscription:
    """A subscription to the events of one queue. Its callback runs in the context in which it was created."""

    wake_token: str
    on_event: Callable[[WorkerEvent, str], None]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


class RedisConnections:
    """The connections to one Redis. Leases have a connection of their own, so that large results do not delay them."""

    def __init__(self, target: RedisTarget, *, on_close: Callable[[], object] = lambda: None) -> None:
        self.tasks = AsyncBroker.connect(target, reply_timeout_s=TASKS_TIMEOUT_S)
        # Extends leases and sends heartbeats. All use its clock.
        self.leases = AsyncBroker.connect(target, reply_timeout_s=LEASES_TIMEOUT_S)
        self.now_ns = self.leases.now_ns
        self._on_close = on_close
        self._users = 0
        self._subscriber = Subscriber(self.leases, on_message=self._receive, on_gap=self._report_gap)
        self._is_subscribed = False
        # Keys are channels.
        self._listeners: dict[str, list[WorkerSubscription]] = defaultdict(list)
        self._loop = asyncio.get_running_loop()
        self._clock_lock = asyncio.Lock()
        self._measured_s = float("-inf")

    async def acquire(self) -> None:
        """Add a user, once Redis is reachable and its clock is known. Raise BrokerUnavailable."""
        # Counted first: else another user's release could close the connections meanwhile.
        self._users += 1
        try:
            await self.measure_clock()
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Undo `acquire`. After the last user the connections are closed, and pending requests fail."""
        self._users -= 1
        if self._users == 0:
            self._on_close()  # first, so that new users get new connections
            await self._subscriber.close()
            await self.tasks.close()
            await self.leases.close()

    async def measure_clock(self) -> None:
        """Measure Redis's clock, unless that was done within CLOCK_VALID_S. Raise BrokerUnavailable."""
        async with self._clock_lock:
            if clock.monotonic_s() - self._measured_s >= CLOCK_VALID_S or self.leases.has_clock_parted:
                await self.leases.measure_clock()
                self._measured_s = clock.monotonic_s()

    async def listen(self, listener: WorkerSubscription) -> None:
        """Pass events to a subscription. Until Redis confirms it, events may be missed; workers poll as well."""
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
        notice, subject = parse_worker_event(channel, data)
        for listener in self._listeners.get(channel, ()):
            self._loop.call_soon(listener.on_event, notice, subject, context=listener.context)

    def _report_gap(self) -> None:
        for listener in {listener for listeners in self._listeners.values() for listener in listeners}:
            self._loop.call_soon(listener.on_event, WorkerEvent.GAP, "", context=listener.context)


class ConnectionRegistry:
    """Shares one set of connections to each Redis among any number of queues."""

    def __init__(self) -> None:
        self._open: dict[RedisTarget, RedisConnections] = {}

    async def acquire(self, target: RedisTarget) -> RedisConnections:
        """Return the connections to a Redis. It is reachable and its clock is known. The caller must release them.

        Raise BrokerUnavailable.
        """
        connections = self._open.get(target)
        if connections is None:
            connections = self._open[target] = RedisConnections(target, on_close=lambda: self._open.pop(target))
        await connections.acquire()
        return connections

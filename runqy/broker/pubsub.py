"""Subscribe to Redis channels on an event loop, over one persistent connection, and decode events for workers.

Workers receive wake-ups and cancellations this way, web processes the ends of tasks. Messages published while the
connection is down are lost; subscribers poll as well, and are notified of a gap.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum, auto

import structlog

from runqy.broker import keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection.async_connection import AsyncConnection
from runqy.broker.connection.async_connector import Connector
from runqy.broker.connection.async_node import reconnect_delay_s
from runqy.broker.keys import ended_channel
from runqy.broker.replies import Reply, translate_error
from runqy.broker.request import Request
from runqy.broker.scripts import command, pack
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import RunqyError

PING_AFTER_S = 15.0
"""How long the connection may be silent before it is pinged."""
SILENCE_TIMEOUT_S = 25.0
"""How long the connection may be silent before it is considered lost."""
MAX_CHANNELS_PER_COMMAND = 500
CHUNKS_WRITTEN = b"chunks"
"""The message on a task's `ended_channel` that its chunks have changed. Other messages are its final state."""

DUTY_CHANNELS = (keys.DUTIES_CHANNEL,)
"""Messages are names of maintenance duties that have something to do."""

_log = structlog.get_logger(__name__)


class Subscriber:
    """Calls back on the event loop for messages on the subscribed channels."""

    def __init__(
        self,
        source: AsyncBroker | RedisTarget,
        *,
        on_message: Callable[[str, bytes], None],
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        """`on_message` is called for a message, `on_gap` when messages may have been missed.

        Neither may block. What they raise is logged.
        """
        self._connector = source.connector if isinstance(source, AsyncBroker) else Connector(source)
        self._on_message = on_message
        self._on_gap = on_gap
        self._wanted: Counter[str] = Counter()
        # The number of outstanding confirmations on this connection, by channel.
        self._unconfirmed: Counter[str] = Counter()
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_gap = False
        # Consecutive losses of the connection, or refusals, without any data received.
        self._failures = 0
        self._received_s = 0.0
        self._call_failures = FailureLog("message_processed")

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def subscribe(self, channels: Iterable[str], *, timeout_s: float = 1.0) -> bool:
        """Subscribe to channels and wait for Redis's confirmation. Each call needs a call of `unsubscribe`.

        Return False after a timeout: the channels stay subscribed, but a message published meanwhile may be missed. The
        subscription counts from the call on, even if the caller is cancelled while it waits.
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
        while True:
            try:
                connection = await self._connector.open(on_push=self._receive)
            except RunqyError as error:
                self._record_failure(str(error))
            else:
                self._record_failure(await self._listen(connection))
            await asyncio.sleep(reconnect_delay_s(self._failures))

    def _record_failure(self, reason: str) -> None:
        self._has_gap = True
        self._failures += 1
        if self._failures == 1:
            _log.warning("subscriber_disconnected", error=reason)

    async def _listen(self, connection: AsyncConnection) -> str:
        """Subscribe to all channels and receive until the connection is lost; return the reason."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[str] = loop.create_future()
        connection.on_lost = lambda _, reason: lost.set_result(reason)
        self._connection = connection
        self._unconfirmed.clear()
        self._received_s = loop.time()
        self._request(list(self._wanted))
        self._end_gap()
        try:
            while connection.is_open:
                await asyncio.wait([lost], timeout=PING_AFTER_S / 3)
                silent_s = loop.time() - self._received_s
                if silent_s > SILENCE_TIMEOUT_S:
                    connection.close("the connection went silent")
                elif silent_s > PING_AFTER_S:
                    connection.push([pack(("PING",))])
        finally:
            self._connection = None
            connection.on_lost = None
            connection.close("the subscriber was closed")
            # No channel is confirmed any more: `subscribe` waits until the next connection has confirmed it.
            self._request(list(self._wanted))
        return lost.result() if lost.done() else "The connection was lost."

    def _request(self, names: list[str]) -> None:
        """Subscribe to channels now, or on the next connection."""
        for name in names:
            if name not in self._confirmations:
                self._confirmations[name] = asyncio.get_running_loop().create_future()
        if self._connection is None:
            return
        for start in range(0, len(names), MAX_CHANNELS_PER_COMMAND):
            batch = names[start : start + MAX_CHANNELS_PER_COMMAND]
            self._unconfirmed.update(batch)
            self._connection.push([pack(("SUBSCRIBE", *batch))])

    def _receive(self, reply: Reply) -> None:
        if isinstance(reply, Exception):
            if self._connection is not None:
                self._connection.close(translate_error(reply).detail)
            return
        self._received_s = asyncio.get_running_loop().time()
        self._failures = 0
        if isinstance(reply, list) and reply[0] == b"message":
            self._call_back(self._on_message, reply[1].decode("utf-8", "replace"), reply[2])
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._confirm(reply[1].decode("utf-8", "replace"))

    def _call_back(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        # asyncio would end the connection, with what Redis has sent after the message.
        except Exception as error:  # noqa: BLE001
            self._call_failures.record("message_not_processed", key=type(error).__name__, exc_info=error)
        else:
            self._call_failures.record_success()

    def _confirm(self, name: str) -> None:
        """Record that Redis subscribed to a channel. After a reconnection the last confirmation ends the gap."""
        self._unconfirmed[name] -= 1
        if self._unconfirmed[name] > 0:
            return
        del self._unconfirmed[name]
        confirmation = self._confirmations.pop(name, None)
        if confirmation is not None:
            confirmation.set_result(None)
        self._end_gap()

    def _end_gap(self) -> None:
        # Not before every channel is confirmed: messages on the others may still be missed.
        if self._has_gap and not self._unconfirmed:
            self._has_gap = False
            if self._on_gap is not None and self._wanted:
                self._call_back(self._on_gap)


class TaskEndSubscriber:
    """Calls back with the ids of watched tasks that end, or that have new chunks or a new run.

    Both may be missed while the connection is down, and not all workers publish them: callers poll as well.
    """

    def __init__(
        self,
        source: AsyncBroker | RedisTarget,
        *,
        on_end: Callable[[str], None],
        on_chunks: Callable[[str], None] = lambda task_id: None,
    ) -> None:
        prefix = ended_channel("")

        def receive(channel: str, message: bytes) -> None:
            notify = on_chunks if message == CHUNKS_WRITTEN else on_end
            notify(channel.removeprefix(prefix))

        self._subscriber = Subscriber(source, on_message=receive)

    async def start(self) -> None:
        await self._subscriber.start()

    async def close(self) -> None:
        await self._subscriber.close()

    async def watch(self, task_id: str) -> None:
        """Watch a task until `unwatch`; return when Redis has confirmed it, or after a second without confirmation."""
        await self._subscriber.subscribe([ended_channel(task_id)])

    def unwatch(self, task_id: str) -> None:
        self._subscriber.unsubscribe([ended_channel(task_id)])


class WorkerEvent(Enum):
    """What a message to a worker is about."""

    WORK = auto()
    CANCELED = auto()  # by any program: the id of a task
    MARKED = auto()  # the next CANCELED is runqy's, which has marked the task
    RUN_CANCELED = auto()  # by runqy: a lease token
    CONFIGURATION = auto()
    GAP = auto()  # any of these may have been missed; reported by the subscription itself


def worker_channels(wake_token: str) -> tuple[str, ...]:
    """Return the channels that a worker subscribes to. `wake_token` is that of its dequeue requests."""
    own = keys.cancel_channel(wake_token.rpartition(":")[0])
    return keys.wake_channel(wake_token), own, keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL


def parse_worker_event(channel: str, data: bytes) -> tuple[WorkerEvent, str]:
    """Return the event of a message, and the Redis queue, task id, lease token, queue or worker that it names."""
    subject = data.decode("utf-8", "replace")
    first, _, rest = subject.partition(" ")
    if channel == keys.CANCEL_CHANNEL:
        return WorkerEvent.CANCELED, subject
    if channel == keys.CHANGED_CHANNEL:
        return (WorkerEvent.MARKED, rest) if rest and first == "cancel" else (WorkerEvent.CONFIGURATION, subject)
    if rest:
        return WorkerEvent.RUN_CANCELED, first
    return WorkerEvent.WORK, subject


def read_queue_revision(queue: str) -> Request[str | None]:
    """Return the revision that grows with a queue's configuration; None if nothing is published."""
    read = command("HGET", keys.QUEUE_REVISIONS, queue, key=keys.QUEUE_REVISIONS)
    return Request((read,), lambda replies: None if replies[0] is None else replies[0].decode("utf-8", "replace"))

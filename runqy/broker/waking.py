"""Listens on Redis channels over one connection that it keeps open, on a thread of its own.

Workers hear of work and of cancelled tasks through it, web processes of tasks that ended. What is published while the
connection is down is lost; whoever listens polls as well, and is told when there was a gap.
"""

import contextlib
import random
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from redis import RedisCluster
from redis import exceptions as redis_errors
from redis.connection import Connection, ConnectionPool

from runqy.broker.broker import Broker
from runqy.broker.links import translated_errors
from runqy.errors import BrokerCommandRefused, BrokerUnavailable

QUIET_S = 15.0
"""After how much silence the connection is tried."""
DEAD_S = 25.0
"""After how much silence it counts as broken."""
RECONNECT_MAX_S = 2.0

_log = structlog.get_logger(__name__)


class Listener:
    """Subscribes to channels and calls back for what comes in, on its own thread; usable from any thread."""

    def __init__(
        self, broker: Broker, on_message: Callable[[str, bytes], None], on_gap: Callable[[], None] | None = None
    ) -> None:
        """Take what to call for a message, and what to call when some may have been missed. Neither may block."""
        self._broker = broker
        self._on_message = on_message
        self._on_gap = on_gap
        self._changed = threading.Condition()
        self._wanted: Counter[str] = Counter()
        self._unconfirmed: Counter[str] = Counter()
        self._outbox: deque[tuple[str, str]] = deque()
        self._is_stopping = False
        self._has_gap = False
        self._failures = 0
        """How often in a row the connection was lost, or refused, before anything was heard."""
        self._bell, self._bell_end = socket.socketpair()
        self._bell.setblocking(False)
        self._bell_end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="runqy-listener", daemon=True)

    def start(self) -> "Listener":
        """Begin to listen."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread and the connection."""
        self._is_stopping = True
        self._ring()
        if self._thread.ident is not None:
            self._thread.join()
        self._bell.close()
        self._bell_end.close()

    def subscribe(self, channels: Iterable[str], *, timeout_s: float = 1.0) -> bool:
        """Listen on channels until as many calls of `unsubscribe`; wait until Redis confirmed it.

        False: it did not in time. The wish stands, but a message that was published meanwhile may be missed.
        """
        names = tuple(channels)
        with self._changed:
            for name in names:
                self._wanted[name] += 1
                if self._wanted[name] == 1:
                    self._unconfirmed[name] += 1
                    self._outbox.append(("SUBSCRIBE", name))
        self._ring()
        with self._changed:
            return self._changed.wait_for(lambda: not any(self._unconfirmed[name] for name in names), timeout_s)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Undo one subscription of each channel."""
        with self._changed:
            for name in channels:
                self._wanted[name] -= 1
                if self._wanted[name] <= 0:
                    del self._wanted[name]
                    self._outbox.append(("UNSUBSCRIBE", name))
        self._ring()

    def _ring(self) -> None:
        """Let the thread look up from its connection."""
        with contextlib.suppress(BlockingIOError):
            self._bell.send(b"!")

    def _run(self) -> None:
        """Connect and listen, again and again, until closed."""
        while not self._is_stopping:
            try:
                with translated_errors(), self._connection() as connection:
                    self._listen(connection)
            except (BrokerUnavailable, BrokerCommandRefused) as error:
                self._lose_all()
                self._has_gap = True
                self._failures += 1
                if self._failures == 1:
                    _log.warning("listener_disconnected", error=str(error))
                self._pause(self._delay_s())

    def _delay_s(self) -> float:
        """Return how long to wait before the next try: longer with each failure, up to a limit."""
        grown_s: float = 0.05 * 2 ** min(self._failures, 10)
        return min(grown_s, RECONNECT_MAX_S) * random.uniform(0.5, 1)  # noqa: S311 (spreads load, hides nothing)

    def _pause(self, span_s: float) -> None:
        """Wait before the next try, unless closed meanwhile."""
        end = time.monotonic() + span_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell_end, selectors.EVENT_READ)
            while not self._is_stopping and (left := end - time.monotonic()) > 0:
                if selector.select(left):
                    self._bell_end.recv(4096)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Take a connection out of the pool; it never serves others as a subscriber."""
        pool = self._pool()
        connection: Connection = pool.get_connection()
        try:
            yield connection
        finally:
            connection.disconnect()
            pool.release(connection)

    def _pool(self) -> ConnectionPool:
        """Return the pool of a node; in a cluster any will do, since all nodes pass on what is published."""
        client = self._broker.client
        if isinstance(client, RedisCluster):
            return client.get_redis_connection(client.get_random_node()).connection_pool
        return client.connection_pool

    def _listen(self, connection: Connection) -> None:
        """Subscribe to all that is wanted, then pass on what comes in, until closed."""
        self._lose_all()
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell_end, selectors.EVENT_READ)
            selector.register(connection._sock, selectors.EVENT_READ)  # type: ignore[arg-type]  # noqa: SLF001 (has no public name)
            heard_at = time.monotonic()
            while not self._is_stopping:
                self._send(connection, ping=time.monotonic() - heard_at > QUIET_S)
                for key, _ in selector.select(QUIET_S / 3):
                    if key.fileobj is self._bell_end:
                        self._bell_end.recv(4096)
                while _can_read(connection):
                    heard_at = time.monotonic()
                    self._receive(connection.read_response(push_request=True))
                    self._failures = 0
                if time.monotonic() - heard_at > DEAD_S:
                    raise redis_errors.TimeoutError("the connection went silent")

    def _lose_all(self) -> None:
        """Note that Redis has to hear anew of every channel that is wanted."""
        with self._changed:
            self._unconfirmed = Counter(dict.fromkeys(self._wanted, 1))
            self._outbox = deque(("SUBSCRIBE", name) for name in self._wanted)

    def _send(self, connection: Connection, *, ping: bool) -> None:
        """Send what has piled up."""
        commands: list[tuple[str, ...]] = [("PING",)] if ping else []
        while self._outbox:
            commands.append(self._outbox.popleft())
        if commands:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)

    def _receive(self, reply: Any) -> None:
        """Pass a message on, or note a confirmation."""
        if not isinstance(reply, list):
            return
        kind, *rest = reply
        if kind == b"message":
            self._on_message(rest[0].decode("utf-8", "replace"), rest[1])
        elif kind == b"subscribe":
            self._confirm(rest[0].decode("utf-8", "replace"))

    def _confirm(self, name: str) -> None:
        """Note that Redis subscribed a channel; after a reconnection, the last one ends the gap."""
        with self._changed:
            self._unconfirmed[name] -= 1
            if self._unconfirmed[name] <= 0:
                del self._unconfirmed[name]
            is_complete = not self._unconfirmed
            self._changed.notify_all()
        if is_complete and self._has_gap:
            self._has_gap = False
            if self._on_gap is not None:
                self._on_gap()


def _can_read(connection: Connection) -> bool:
    """Tell whether something came in. One that another thread closed has no socket, for which redis-py looks."""
    try:
        return bool(connection.can_read(0))
    except (AttributeError, TypeError, ValueError) as error:
        raise redis_errors.ConnectionError("the connection was closed") from error

"""One connection to Redis on an event loop: one write per loop iteration, replies matched in order.

Of large requests one is sent to a server at a time, and while it has one it may be silent for longer.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from hiredis import ProtocolError, Reader
from redis.connection import DefaultParser

from runqy.broker.constants import LARGE_BYTES_PER_S
from runqy.broker.replies import Reply, ReplyLost
from runqy.broker.scripts import JOINED_BYTES, Data, Script
from runqy.errors import BrokerBusy, BrokerUnavailable, RunqyError

_CHECKS = 8
"""How often within `reply_timeout_s` a connection is checked for silence."""


class LargeTraffic:
    """The bytes of large requests to which a server has not replied, on all connections of a process."""

    def __init__(self) -> None:
        self.unanswered_bytes = 0

    @property
    def extra_s(self) -> float:
        """How much longer than otherwise the server may be silent, on any connection: it runs one command at a time."""
        return self.unanswered_bytes / LARGE_BYTES_PER_S


_INCOMPLETE = object()


class ConnectionLost(BrokerUnavailable):
    """Redis cannot be reached."""


def as_unsent(error: RunqyError) -> RunqyError:
    """Return the error for requests that were waiting for a connection: none of them was sent."""
    return BrokerUnavailable(reason=error.reason) if isinstance(error, (ConnectionLost, ReplyLost)) else error


class AsyncConnection(asyncio.Protocol):
    """Pipelines the requests of many callers. A caller that stops waiting gives up only its own reply."""

    def __init__(
        self,
        *,
        reply_timeout_s: float,
        max_pending: int,
        on_push: Callable[[Reply], None] | None = None,
    ) -> None:
        """`on_push` is called with replies that belong to no request, such as published messages."""
        self._loop = asyncio.get_running_loop()
        self._check_s = reply_timeout_s / _CHECKS
        self._max_pending = max_pending
        self._on_push = on_push
        # Called once, when the connection is closed for any reason.
        self.on_lost: Callable[[AsyncConnection, str], None] | None = None
        # Shared by the connections to a server.
        self.large_traffic = LargeTraffic()
        self.is_open = False
        # Those that were loaded on it.
        self.scripts: set[Script] = set()
        # It was closed because no reply arrived.
        self.was_silent = False
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._reader = Reader(
            protocolError=ProtocolError, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )
        # Each request's future, its number of replies, and `_put_bytes` at its end.
        self._pending: deque[tuple[asyncio.Future[list[Reply]], int, int]] = deque()
        # The replies to the first pending request received so far.
        self._replies: list[Reply] = []
        self._outbox: list[Data] = []
        # The number of bytes in the outbox, and of all that were ever put there.
        self._outbox_bytes = self._put_bytes = 0
        self._is_paused = False
        self._is_retired = False
        self._check: asyncio.TimerHandle | None = None
        self._has_received = False
        self._silent_checks = 0
        # The number of bytes that Redis had acknowledged at the last check.
        self._sent_bytes = 0

    def send(self, parts: Sequence[Data], reply_count: int) -> asyncio.Future[list[Reply]]:
        """Queue packed commands for the end of this loop iteration, and return a future for their replies.

        Raise BrokerBusy. The future fails with ReplyLost, or with ConnectionLost if nothing was sent.
        """
        if len(self._pending) >= self._max_pending:
            raise BrokerBusy
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if not self.is_open:
            future.set_exception(ConnectionLost())
            return future
        self._put(parts)
        self._pending.append((future, reply_count, self._put_bytes))
        return future

    def push(self, parts: Sequence[bytes]) -> None:
        """Send packed commands whose replies go to `on_push`."""
        if self.is_open:
            self._put(parts)

    def retire(self) -> None:
        """Close the connection once all outstanding replies have arrived."""
        self._is_retired = True
        if not self._pending:
            self.close("the connection was retired")

    def close(self, reason: str) -> None:
        """Close the connection now; pending requests fail with ReplyLost."""
        if not self.is_open:
            return
        self.is_open = False
        if self._check is not None:
            self._check.cancel()
        if self._transport is not None:
            self._transport.abort()
        pending, self._pending = self._pending, deque()
        self._outbox, self._outbox_bytes = [], 0
        if self.on_lost is not None:
            self.on_lost(self, reason)
        for future, _, _ in pending:
            if not future.done():
                future.set_exception(ReplyLost(reason=reason))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(str(exc or "it closed the connection"))

    def eof_received(self) -> None:
        """Close at once: no more replies will come, and asyncio would first send what a slow peer may never read."""
        self.close("it closed the connection")

    def data_received(self, data: bytes) -> None:
        """Resolve pending requests with the received replies, in order."""
        self._has_received = True
        gets, pending, replies = self._reader.gets, self._pending, self._replies
        self._reader.feed(data)
        try:
            while (reply := gets()) is not _INCOMPLETE:
                if not pending:
                    self._receive_push(reply)
                    continue
                replies.append(reply)
                future, count, _ = pending[0]
                if len(replies) == count:
                    pending.popleft()
                    if not future.done():  # else its caller has stopped waiting
                        future.set_result(replies)
                    replies = []
        except ProtocolError as error:
            self.close(f"Redis sent an invalid reply: {error}.")
            return
        self._replies = replies
        if self._is_retired and not pending:
            self.close("the connection was retired")

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._outbox:
            self._flush()

    def _put(self, parts: Sequence[Data]) -> None:
        outbox = self._outbox
        if not outbox and not self._is_paused:
            # Runs after the other callbacks of this iteration, so that all their commands share one write.
            self._loop.call_soon(self._flush)
        for part in parts:
            outbox.append(part)
            self._outbox_bytes += len(part)
            self._put_bytes += len(part)

    def _flush(self) -> None:
        """Write queued data as far as flow control permits."""
        transport, outbox = self._transport, self._outbox
        if transport is None or not outbox or self._is_paused:
            return
        if self._outbox_bytes <= JOINED_BYTES:
            self._outbox, self._outbox_bytes = [], 0
            transport.write(outbox[0] if len(outbox) == 1 else b"".join(outbox))
        else:
            self._write_pieces(transport)
        if self._check is None:
            self._has_received, self._silent_checks = False, 0
            self._check = self._loop.call_later(self._check_s, self._check_silence)

    def _write_pieces(self, transport: asyncio.Transport) -> None:
        written = 0
        for piece in self._outbox:
            transport.write(piece)
            self._outbox_bytes -= len(piece)
            written += 1
            if self._is_paused:  # the socket is full
                break
        self._outbox = self._outbox[written:]

    def _receive_push(self, reply: Reply) -> None:
        if self._on_push is None:
            self.close(f"Redis sent an unexpected reply: {reply!r:.100}")
        else:
            self._on_push(reply)

    def _check_silence(self) -> None:
        """Close the connection when the oldest request without a reply has made no progress for `reply_timeout_s`, and
        for the time that large requests take.

        While a request is being sent, bytes that Redis acknowledges are progress. After that only replies are: the
        kernel acknowledges new requests even while Redis is stopped.

        Silence is counted in checks, not measured by the clock: after the loop was blocked, replies may have arrived
        that were not read yet.
        """
        if not self._pending or self._transport is None:
            self._check = None
            return
        buffered_bytes = self._outbox_bytes + self._transport.get_write_buffer_size()
        sent_bytes = self._put_bytes - buffered_bytes - _count_unacknowledged(self._socket)
        is_arriving = self._sent_bytes < min(sent_bytes, self._pending[0][2])
        if self._has_received or is_arriving:
            self._silent_checks = 0
        else:
            self._silent_checks += 1
        self._has_received, self._sent_bytes = False, sent_bytes
        if self._silent_checks > _CHECKS + self.large_traffic.extra_s / self._check_s:
            self.was_silent = True
            self.close("it does not reply")
            return
        self._check = self._loop.call_later(self._check_s, self._check_silence)


def _count_unacknowledged(connected: socket.socket | None) -> int:
    """Return how many bytes the peer has not acknowledged; 0 where the system does not report it."""
    if connected is None:
        return 0
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):
        return 0
    return int(count)

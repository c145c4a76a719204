"""uvicorn's HTTP protocol with limits for request heads, and problem responses to invalid requests.

Its transport joins the small writes of one iteration of the event loop.
"""

import asyncio
from asyncio.events import TimerHandle
from enum import Enum, auto
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from runqy.core.telemetry.tracing import request_id_context
from runqy.errors import HeadersTooLarge, RequestInvalid, RequestTimeout, RunqyError
from runqy.server.dataplane.bodies import RECEIVED
from runqy.server.dataplane.request import BREAK_OFF
from runqy.server.dataplane.responses import problem_response, render_head, shared_headers

_JOINED_BYTES = 64 << 10
"""More than this is passed on at once: joining it would cost more than another system call."""
MAX_HEAD_BYTES = 32 << 10
MAX_FIELDS = 100


class JoiningTransport(asyncio.Transport):
    """Sends what is written within one iteration of the event loop by one system call.

    uvicorn writes the head and the body of a response separately. Each would be a packet, and wake the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(bytes(data))
        self._pending_bytes += len(data)
        if self._pending_bytes > _JOINED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Pass on what was written, unless the connection is closing."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending or self._transport.is_closing():
            return
        if len(pending[-1]) > _JOINED_BYTES:
            self._transport.writelines(pending)
        else:
            self._transport.write(b"".join(pending))

    def get_write_buffer_size(self) -> int:
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._pending, self._pending_bytes = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)


def break_off(cycle: RequestResponseCycle) -> None:
    """Close the connection of a response without its end."""
    cycle.disconnected = True  # uvicorn then takes no more of the response, and logs nothing
    cycle.transport.close()


class Expected(Enum):
    """What a connection expects next."""

    REQUEST = auto()
    HEAD = auto()
    BODY = auto()


class HttpProtocol(HttpToolsProtocol):
    """Limits heads in time, size and number of fields, refuses ambiguous framing, and drops clients that do not
    read.
    """

    head_timeout_s = 10.0
    linger_s = 2.0
    """How long a refused client may continue to send. If the connection is closed at once, it is reset and the response
    is lost."""
    unused_timeout_s = 0.5
    """How long an idle connection is kept when the server stops, as a request may be on its way."""
    stalled_timeout_s = 60.0
    """A client is dropped that reads less than `stalled_bytes` of a response in this time."""
    stalled_bytes = 60 << 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.expected = Expected.REQUEST
        self.refusal: RunqyError | None = None
        self.is_refused = False
        self.is_shutting_down = False
        self.has_progressed = False
        self.segment_bytes = 0
        # Bytes since the last progress: heads, chunk extensions and trailers, which the parser buffers.
        self.overhead_bytes = 0
        self.head_timer: TimerHandle | None = None
        self.stall_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        self.joining_transport = JoiningTransport(transport, self.loop)
        super().connection_made(self.joining_transport)
        self.head_timer = self.loop.call_later(self.head_timeout_s, self.end_slow_head)

    def eof_received(self) -> None:
        self.joining_transport.flush()  # uvicorn closes the transport next
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_head_timer()
        self.stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            return
        self.has_progressed = False
        self.segment_bytes = len(data)
        super().data_received(data)
        if self.is_refused:
            return
        self.overhead_bytes = 0 if self.has_progressed else self.overhead_bytes + len(data)
        if self.overhead_bytes > MAX_HEAD_BYTES:
            self.refuse(HeadersTooLarge())
        elif self.expected is Expected.BODY or (self.expected is Expected.REQUEST and self.has_progressed):
            self.stop_head_timer()
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(self.head_timeout_s, self.end_slow_head)

    def on_message_begin(self) -> None:
        self.expected = Expected.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.check_head()
        self.has_progressed = True
        self.expected = Expected.BODY
        super().on_headers_complete()
        self.headers = []  # httptools reports trailers as headers: they must not join those of the request
        if self.is_shutting_down or self.parser.should_upgrade():  # after an upgrade httptools stops parsing
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self.has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.has_progressed = True
        self.expected = Expected.REQUEST
        self.scope["extensions"] = {RECEIVED: {}, BREAK_OFF: {"call": partial(break_off, self.cycle)}}
        super().on_message_complete()

    def check_head(self) -> None:
        """Refuse a head that is too large, or that proxies may read differently."""
        if len(self.headers) > MAX_FIELDS:
            self.refuse_head(HeadersTooLarge(f"The request has more than {MAX_FIELDS} header fields."))
        if self.overhead_bytes + self.segment_bytes > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self.refuse_head(HeadersTooLarge())
        names = [name for name, _ in self.headers]
        if names.count(b"host") > 1:
            self.refuse_head(RequestInvalid("The request has more than one Host header."))
        if b"transfer-encoding" in names:
            codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if codings != [b"chunked"] or self.parser.get_http_version() != "1.1":
                self.refuse_head(RequestInvalid("The only transfer encoding supported is chunked, in HTTP/1.1."))

    def refuse_head(self, error: RunqyError) -> None:
        """Stop the parser, which then calls `send_400_response`."""
        self.refusal = error
        raise error

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.refusal or RequestInvalid("The request is not valid HTTP."))

    def refuse(self, error: RunqyError) -> None:
        """Send a problem and close the connection, but do not break into a response in progress."""
        self.is_refused = True
        self.stop_head_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            if self.expected is not Expected.BODY:
                super().shutdown()  # the connection closes after the response to the previous request
                return
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
                return
            # Ends the application's wait for the body, and uvicorn drops the response that it still sends.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        with request_id_context():
            response = problem_response(error)
            shared = shared_headers(self.scheme or "http")
        headers = [*self.server_state.default_headers, *response.headers, *shared, (b"connection", b"close")]
        self.transport.write(render_head(response.status, headers) + response.body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # What the client still sends must be read, or closing the connection resets it.
        self.flow.resume_reading()
        self.loop.call_later(self.linger_s, self.transport.close)

    def end_slow_head(self) -> None:
        """Refuse an incomplete head. Close a connection on which no head has begun."""
        self.head_timer = None
        if self.flow.read_paused:  # a pipelined request waits for the server, not for the client
            self.head_timer = self.loop.call_later(self.head_timeout_s, self.end_slow_head)
        elif self.expected is Expected.HEAD:
            self.refuse(RequestTimeout())
        else:
            super().shutdown()

    def shutdown(self) -> None:
        """Close the connection after the request in progress. An idle one may still receive a last request."""
        if not self.is_shutting_down and (self.cycle is None or self.cycle.response_complete):
            self.is_shutting_down = True
            self.loop.call_later(self.unused_timeout_s, self.shutdown)
        else:
            super().shutdown()

    def stop_head_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch_stall(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stop_stall_timer()

    def watch_stall(self, unsent_bytes: int) -> None:
        self.stop_stall_timer()
        self.stall_timer = self.loop.call_later(self.stalled_timeout_s, self.end_stalled_response, unsent_bytes)

    def end_stalled_response(self, unsent_before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent > unsent_before - self.stalled_bytes:  # it read almost nothing since the last check
            self.transport.abort()
        else:
            self.watch_stall(unsent)

    def stop_stall_timer(self) -> None:
        if self.stall_timer is not None:
            self.stall_timer.cancel()
            self.stall_timer = None

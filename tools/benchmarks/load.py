"""Send HTTP requests over keep-alive connections as fast as the server responds, from one process over plain sockets.

It shares the cores with the server, so it does little with a response: the first one is parsed, and later ones of the
same length with status 2xx are taken as complete. `Load.cpu_us` shows its cost.
"""

import itertools
import secrets
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

UNIQUE = b"0" * 12 + b"~"
"""Replaced by another value of the same length in each request."""

_BUFFER_BYTES = 256 << 10
_LENGTH = b"content-length: "
_OK = b"HTTP/1.1 2"


@dataclass(frozen=True, slots=True)
class Traffic:
    """One request, repeated on a number of connections."""

    request: bytes
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The result of one traffic."""

    seconds: float
    latencies_s: list[float]
    """Latencies of all responses, and of requests that were waiting longer than any of those at the end."""
    responses: int
    failures: int
    """The number of responses other than 2xx, and of connections that were closed without a response."""
    cpu_us: float
    """CPU time of this process per response, over all traffics."""

    @property
    def rate(self) -> float:
        """Responses a second."""
        return self.responses / self.seconds

    @property
    def p99_ms(self) -> float:
        return sorted(self.latencies_s)[int(len(self.latencies_s) * 0.99)] * 1000


def request_bytes(method: str, path: str, key: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a complete HTTP/1.1 request. Underscores in header names become hyphens."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def run_load(port: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Keep one request in progress on each connection for some seconds."""
    (load,) = run_loads(port, [Traffic(request, connections)], seconds=seconds)
    return load


def run_loads(port: int, traffics: Sequence[Traffic], *, seconds: float) -> list[Load]:
    """Run several traffics at the same time; return their loads in order."""
    selector = selectors.DefaultSelector()
    streams = [_Stream(traffic.request) for traffic in traffics]
    for traffic, stream in zip(traffics, streams, strict=True):
        for _ in range(traffic.connections):
            connection = _Connection(port, stream)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(stream.next_request())
    start, cpu_start = time.perf_counter(), time.process_time()
    _exchange(selector, port, until=start + seconds)
    end, cpu_s = time.perf_counter(), time.process_time() - cpu_start
    for key in list(selector.get_map().values()):
        key.data.end(end)
    selector.close()
    cpu_us = cpu_s * 1e6 / max(1, sum(stream.responses for stream in streams))
    return [
        Load(
            seconds=end - start,
            latencies_s=stream.latencies_s,
            responses=stream.responses,
            failures=stream.failures,
            cpu_us=cpu_us,
        )
        for stream in streams
    ]


class _Stream:
    """What the connections of one traffic share."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._numbers = itertools.count()
        escaped, run = request.replace(b"%", b"%%"), secrets.token_hex(3).encode()
        self._template = escaped.replace(UNIQUE, run + b"%07d") if UNIQUE in request else b""
        self.latencies_s: list[float] = []
        self.responses = 0
        self.failures = 0
        # Length of the last response that was parsed.
        self.response_bytes = 0

    def next_request(self) -> bytes:
        return self._template % next(self._numbers) if self._template else self._request


class _Connection:
    """A connection with one request in progress."""

    __slots__ = ("received", "recv_into", "send", "sent_at_s", "socket", "stream")

    def __init__(self, port: int, stream: _Stream) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # With a time-out each call would be two system calls. The selector waits, and requests fit into the buffer.
        self.socket.settimeout(None)
        self.send, self.recv_into = self.socket.sendall, self.socket.recv_into
        self.stream = stream
        self.received = b""
        self.sent_at_s = time.perf_counter()

    def end(self, now_s: float) -> None:
        """Close the connection. Its request counts if it has waited longer than all others."""
        if not self.stream.latencies_s or now_s - self.sent_at_s > max(self.stream.latencies_s):
            self.stream.latencies_s.append(now_s - self.sent_at_s)
        self.socket.close()


def _exchange(selector: selectors.BaseSelector, port: int, *, until: float) -> None:
    """Read responses and send the next requests until the time is up."""
    buffer, select, clock = bytearray(_BUFFER_BYTES), selector.select, time.perf_counter
    while clock() < until:
        for key, _ in select(0.1):
            connection: _Connection = key.data
            stream = connection.stream
            try:
                size = connection.recv_into(buffer)
            except ConnectionError:
                size = 0
            if size != stream.response_bytes or connection.received or not buffer.startswith(_OK):
                connection.received += buffer[:size]
                if size and not _is_complete(connection.received):
                    continue
                stream.failures += not connection.received.startswith(_OK)
                stream.response_bytes = len(connection.received)
                if not size or b"onnection: close" in connection.received:
                    selector.unregister(connection.socket)
                    connection.socket.close()
                    connection = _Connection(port, stream)
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.received = b""
            now = clock()
            stream.responses += 1
            stream.latencies_s.append(now - connection.sent_at_s)
            connection.sent_at_s = now
            connection.send(stream.next_request())


def _is_complete(response: bytes) -> bool:
    """Return whether a whole response has arrived. All servers here send its length."""
    end = response.find(b"\r\n\r\n")
    if end < 0:
        return False
    start = response[:end].lower().find(_LENGTH) + len(_LENGTH)
    return len(response) - end - 4 >= int(response[start : response.index(b"\r", start)])

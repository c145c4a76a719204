"""Sends HTTP requests over keep-alive connections as fast as the server answers; raw sockets, one process."""

import itertools
import secrets
import selectors
import socket
import statistics
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of requests showed."""

    requests: int
    seconds: float
    latencies_s: list[float]
    failures: int

    @property
    def rate(self) -> float:
        """Return answered requests a second."""
        return self.requests / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the latencies in ms."""
        return statistics.quantiles(self.latencies_s, n=100)[percent - 1] * 1000


_LENGTH = b"content-length: "
UNIQUE = b"0" * 12 + b"~"
"""Stands for something else in each request that is sent, of the same length."""


def request_bytes(method: str, path: str, key: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a complete HTTP/1.1 request; underscores in headers' names stand for hyphens."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def run_load(port: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Keep one request under way on each connection for a span of time; every answer must be a 2xx."""
    selector = selectors.DefaultSelector()
    run, numbers = secrets.token_hex(3).encode(), itertools.count()
    spell = (
        (lambda: request.replace(UNIQUE, b"%s%07d" % (run, next(numbers)))) if UNIQUE in request else lambda: request
    )
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(spell())
        selector.register(connection, selectors.EVENT_READ, [time.perf_counter(), b""])
    latencies: list[float] = []
    failures = 0
    start = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end:
        for key, _ in selector.select(timeout=1):
            connection, state = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            chunk = connection.recv(65536)
            state[1] += chunk
            if chunk and not _is_complete(state[1]):
                continue
            failures += state[1][9:10] != b"2"
            latencies.append(time.perf_counter() - state[0])
            if b"onnection: close" in state[1] or not chunk:
                connection = _reconnect(selector, connection, port, state)
            state[0], state[1] = time.perf_counter(), b""
            connection.sendall(spell())
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    selector.close()
    return Load(requests=len(latencies), seconds=now - start, latencies_s=latencies, failures=failures)


def _reconnect(selector: selectors.BaseSelector, old: socket.socket, port: int, state: list[object]) -> socket.socket:
    """Replace a connection that the server closed."""
    selector.unregister(old)
    old.close()
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(connection, selectors.EVENT_READ, state)
    return connection


def _is_complete(answer: bytes) -> bool:
    """Tell whether an answer is there whole. All servers here send its length."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    start = answer[:end].lower().find(_LENGTH) + len(_LENGTH)
    return len(answer) - end - 4 >= int(answer[start : answer.index(b"\r", start)])

"""A TCP proxy on loopback that injects network faults.

These are delays, low bandwidth, fragments, lost responses, half-open and half-closed connections, and resets.
"""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from enum import Enum, auto

LATENCY_S = 0.1
LOSS = 0.1
BYTES_PER_S = 8_000_000
RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing a socket sends a reset."""


class FaultMode(Enum):
    """How the proxy treats the data that it forwards."""

    FINE = auto()
    SLOW = auto()
    NARROW = auto()
    """All connections share `bytes_per_s` in each direction."""
    SILENT = auto()
    """Data is accepted, and forwarded when the mode ends."""
    IN_PIECES = auto()
    LOSES_RESPONSES = auto()
    """Some connections end after their request has arrived, without a response."""
    CLOSES_SLOWLY = auto()
    """Some responses are cut, and the connection is half-closed a while later. Data from the client still arrives until
    it closes its side.
    """
    CUT = auto()
    """New connections end at once. Existing ones stay as they are until `reset`."""


class BadNetwork:
    """Connections to a port on this machine, with the faults that a test sets."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.mode = FaultMode.FINE
        # The latency of each direction while slow, and the share of responses that are lost or cut.
        self.latency_s, self.loss = LATENCY_S, LOSS
        self.bytes_per_s = BYTES_PER_S
        self._target = port
        self._chance = chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        # Clients that receive nothing any more.
        self._deaf: set[socket.socket] = set()
        self._is_closed = False
        self._lock = threading.Lock()
        # When each direction has forwarded all its data while narrow.
        self._free_at_s = {self._carry: 0.0, self._respond: 0.0}
        threading.Thread(target=self._accept, daemon=True).start()

    def half_open(self) -> None:
        """Stop forwarding to the clients of all connections. Data from them still arrives."""
        self._deaf |= self._open

    def reset(self) -> None:
        for end in tuple(self._open):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD)  # wakes the thread that reads, which closes it

    def close(self) -> None:
        self._is_closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            if self.mode is FaultMode.CUT:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            for source, sink, carry in ((client, server, self._carry), (server, client, self._respond)):
                threading.Thread(target=self._pump, args=(source, sink, carry), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, carry: Callable[[socket.socket, bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if self.mode is FaultMode.NARROW:
                    time.sleep(self._occupy(carry, len(data)))
                carry(sink, data)
        self._end(source)
        self._end(sink)

    def _occupy(self, direction: Callable[[socket.socket, bytes], None], size: int) -> float:
        """Reserve a direction for some bytes, after those of other connections. Return the seconds that this takes."""
        with self._lock:
            now_s = time.monotonic()
            self._free_at_s[direction] = max(self._free_at_s[direction], now_s) + size / self.bytes_per_s
            return self._free_at_s[direction] - now_s

    def _respond(self, sink: socket.socket, data: bytes) -> None:
        if sink in self._deaf:
            return
        if self.mode is FaultMode.LOSES_RESPONSES and self._chance.random() < self.loss:
            raise ConnectionAbortedError
        if self.mode is FaultMode.CLOSES_SLOWLY and self._chance.random() < self.loss:
            self._deaf.add(sink)
            sink.sendall(data[: len(data) // 2])
            time.sleep(self.latency_s)
            sink.shutdown(socket.SHUT_WR)
            return
        self._carry(sink, data)

    def _carry(self, sink: socket.socket, data: bytes) -> None:
        while self.mode is FaultMode.SILENT and not self._is_closed:
            time.sleep(0.01)
        if self.mode is FaultMode.SLOW:
            time.sleep(self.latency_s)
        size = 7 if self.mode is FaultMode.IN_PIECES else len(data)
        for start in range(0, len(data), size):
            sink.sendall(data[start : start + size])

    def _end(self, end: socket.socket) -> None:
        # Both threads of a connection close both sides.
        self._open.discard(end)
        self._deaf.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

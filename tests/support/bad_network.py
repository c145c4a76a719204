"""A TCP proxy on loopback that injects network faults: delays, low bandwidth, fragments, lost
responses, half-open and half-closed connections, resets."""

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
"""The value of SO_LINGER with which closing sends a reset."""


class FaultMode(Enum):
    """What happens to what is sent."""

    FINE = auto()
    SLOW = auto()
    NARROW = auto()
    """All connections share `bytes_per_s` in each direction."""
    SILENT = auto()
    """Everything is accepted, and carried when that is over."""
    IN_PIECES = auto()
    LOSES_RESPONSES = auto()
    """Some requests arrive, and the connection ends instead of a response."""
    CLOSES_SLOWLY = auto()
    """Some responses end after a part of them: a while later the connection is half-closed. What the client sends still
    arrives until it closes its side."""
    CUT = auto()
    """New connections end at once; those that exist stay as they are until `reset`."""


class BadNetwork:
    """Connections to a port on this machine, with the faults that a test sets."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.mode = FaultMode.FINE
        self.latency_s, self.loss = LATENCY_S, LOSS
        """The latency of each direction while slow; the share of responses that are lost, or end early."""
        self.bytes_per_s = BYTES_PER_S
        self._target = port
        self._chance = chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._deaf: set[socket.socket] = set()
        """Clients that receive nothing any more."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._free_at_s = {self._carry: 0.0, self._respond: 0.0}
        """When each direction has carried what it was given while narrow."""
        threading.Thread(target=self._accept, daemon=True).start()

    def half_open(self) -> None:
        """Let the clients of all connections receive nothing more; what they send still arrives."""
        self._deaf |= self._open

    def reset(self) -> None:
        """End all connections without a goodbye."""
        for end in tuple(self._open):
            with contextlib.suppress(OSError):  # it ended meanwhile
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD)  # wakes the thread that reads, which closes it

    def close(self) -> None:
        """End everything."""
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
        """Carry what comes from one side to the other until either ends."""
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if self.mode is FaultMode.NARROW:
                    time.sleep(self._occupy(carry, len(data)))
                carry(sink, data)
        self._end(source)
        self._end(sink)

    def _occupy(self, direction: Callable[[socket.socket, bytes], None], size: int) -> float:
        """Use a direction for some bytes, after those of other connections; return how long that takes in all."""
        with self._lock:
            now_s = time.monotonic()
            self._free_at_s[direction] = max(self._free_at_s[direction], now_s) + size / self.bytes_per_s
            return self._free_at_s[direction] - now_s

    def _respond(self, sink: socket.socket, data: bytes) -> None:
        """Carry a response, unless it is lost."""
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
        """Forward data according to the mode."""
        while self.mode is FaultMode.SILENT and not self._is_closed:
            time.sleep(0.01)
        if self.mode is FaultMode.SLOW:
            time.sleep(self.latency_s)
        size = 7 if self.mode is FaultMode.IN_PIECES else len(data)
        for start in range(0, len(data), size):
            sink.sendall(data[start : start + size])

    def _end(self, end: socket.socket) -> None:
        """Close one side; both threads of a connection come here."""
        self._open.discard(end)
        self._deaf.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

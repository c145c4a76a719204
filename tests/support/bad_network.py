"""A TCP proxy on loopback that does what networks do: delay, cut into pieces, lose answers, reset."""

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
RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing sends a reset."""


class Weather(Enum):
    """What happens to what is sent."""

    FINE = auto()
    SLOW = auto()
    SILENT = auto()
    """Everything is accepted, and carried when that is over."""
    IN_PIECES = auto()
    LOSES_ANSWERS = auto()
    """Some requests arrive, and the connection ends in the place of their answer."""


class BadNetwork:
    """Connections to a port on this machine, in a weather that a test sets."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.weather = Weather.FINE
        self.latency_s, self.loss = LATENCY_S, LOSS
        """In slow weather, of each direction; how many of the answers get lost."""
        self._target = port
        self._chance = chance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()

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
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            for source, sink, carry in ((client, server, self._carry), (server, client, self._answer)):
                threading.Thread(target=self._pump, args=(source, sink, carry), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, carry: Callable[[socket.socket, bytes], None]) -> None:
        """Carry what comes from one side to the other until either ends."""
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                carry(sink, data)
        self._end(source)
        self._end(sink)

    def _answer(self, sink: socket.socket, data: bytes) -> None:
        """Carry an answer, unless it is lost."""
        if self.weather is Weather.LOSES_ANSWERS and self._chance.random() < self.loss:
            raise ConnectionAbortedError
        self._carry(sink, data)

    def _carry(self, sink: socket.socket, data: bytes) -> None:
        """Send data on as the weather lets it pass."""
        while self.weather is Weather.SILENT and not self._is_closed:
            time.sleep(0.01)
        if self.weather is Weather.SLOW:
            time.sleep(self.latency_s)
        size = 7 if self.weather is Weather.IN_PIECES else len(data)
        for start in range(0, len(data), size):
            sink.sendall(data[start : start + size])

    def _end(self, end: socket.socket) -> None:
        """Close one side; both threads of a connection come here."""
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

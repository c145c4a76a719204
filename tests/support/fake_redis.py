"""A server on loopback that speaks as much of Redis's protocol as tests need, and fails as a test configures it."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import hiredis

from runqy.core.environment.connection_urls import RedisTarget

_DATA_SEGMENTS_IN = 152
"""The offset at which Linux's struct tcp_info counts received segments with data."""


class FakeRedis:
    """A server that replies to each command with the result of a function, or not at all if that is None."""

    def __init__(self, reply: Callable[[list[bytes]], bytes | None], *, read_pause_s: float = 0.0) -> None:
        """With `read_pause_s` it rests after each 64 KiB, and the network holds only little data."""
        self._reply = reply
        self._read_pause_s = read_pause_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        if read_pause_s:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self.target = RedisTarget(addresses=(self._listener.getsockname(),))
        self.connections: list[socket.socket] = []
        # Connections that get no replies any more.
        self.ignored: list[socket.socket] = []
        # The commands received on all connections, without the PING of the handshake.
        self.commands: list[list[bytes]] = []
        self.received_bytes = 0
        # While this is cleared, data stays in the network.
        self.may_read = threading.Event()
        self.may_read.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "FakeRedis":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.may_read.set()
        self.drop()

    def drop(self) -> None:
        for connection in tuple(self.connections):  # not one that a client opens because of this
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def count_writes(self) -> int:
        """Return the number of segments with data that arrived: one for each write, if small and with TCP_NODELAY."""
        return sum(
            struct.unpack_from("I", c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), _DATA_SEGMENTS_IN)[0]
            for c in self.connections
        )

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        with connection:
            while True:
                self.may_read.wait()
                try:
                    data = connection.recv(65_536)
                    if not data:
                        return
                    self.received_bytes += len(data)
                    if connection in self.ignored:
                        continue
                    time.sleep(self._read_pause_s)
                    reader.feed(data)
                    while command := reader.gets():
                        self._respond(connection, command)
                except OSError:
                    return

    def _respond(self, connection: socket.socket, command: Any) -> None:
        if command == [b"PING"]:
            connection.sendall(b"+PONG\r\n")
            return
        self.commands.append(command)
        response = self._reply(command)
        if response is not None:
            connection.sendall(response)

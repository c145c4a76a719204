"""A Redis that accepts connections and never responds, as one that hangs."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runqy.broker.connection.redis_client import RedisTarget


class SilentRedis:
    """A listener on which connections wait to be accepted."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self.target = RedisTarget(addresses=(listener.getsockname(),))

    def count_calls(self) -> int:
        """Return the number of connections since the last count, and close them."""
        count = 0
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


@contextmanager
def silent_redis(monkeypatch: pytest.MonkeyPatch, *, patience_s: float) -> Iterator[SilentRedis]:
    """Yield a silent Redis, for which clients wait `patience_s`."""
    monkeypatch.setattr("runqy.broker.connection.redis_client.REPLY_TIMEOUT_S", patience_s)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield SilentRedis(listener)

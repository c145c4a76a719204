"""A Redis that accepts connections and never responds, as one that hangs."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runqy.core.environment.connection_urls import RedisTarget


@contextmanager
def silent_redis(monkeypatch: pytest.MonkeyPatch, *, patience_s: float) -> Iterator[RedisTarget]:
    """Yield the address of a silent Redis, for which clients wait `patience_s`."""
    monkeypatch.setattr("runqy.redis_connection.REPLY_TIMEOUT_S", patience_s)
    monkeypatch.setattr("runqy.broker.connection.async_node.CONNECT_WAIT_S", patience_s)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield RedisTarget(addresses=(listener.getsockname(),))

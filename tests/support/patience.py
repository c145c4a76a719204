"""Longer time limits for Redis and the database in the process of the tests.

A server gives up after a second. A machine that runs several tests at once may delay a process for as long.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from runqy import redis_connection
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection import async_cluster, async_connector, async_node

LIMIT_S = 20.0

_CONSTANTS: list[tuple[ModuleType, str]] = [
    (redis_connection, "REPLY_TIMEOUT_S"),
    (redis_connection, "CONNECT_TIMEOUT_S"),
    (async_node, "CONNECT_WAIT_S"),
    (async_cluster, "CONNECT_WAIT_S"),
]
_DEFAULTS: list[tuple[Callable[..., Any], str]] = [
    (function, name)
    for function in (AsyncBroker.connect, async_connector.Connector.__init__)
    for name in ("reply_timeout_s", "connect_timeout_s")
]
_SERVERS_LIMITS_S = [
    *(getattr(module, name) for module, name in _CONSTANTS),
    *(function.__kwdefaults__[name] for function, name in _DEFAULTS),
]


@contextmanager
def extended_limits() -> Iterator[None]:
    """Use longer time limits until the block ends."""
    with pytest.MonkeyPatch.context() as patched:
        _set_limits(patched, [LIMIT_S] * len(_SERVERS_LIMITS_S))
        yield


def use_servers_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the time limits of a server in a test, to see what happens when Redis does not respond."""
    _set_limits(monkeypatch, _SERVERS_LIMITS_S)


def _set_limits(patched: pytest.MonkeyPatch, limits_s: list[float]) -> None:
    for (module, name), limit_s in zip(_CONSTANTS, limits_s[: len(_CONSTANTS)], strict=True):
        patched.setattr(module, name, limit_s)
    for (function, name), limit_s in zip(_DEFAULTS, limits_s[len(_CONSTANTS) :], strict=True):
        patched.setitem(function.__kwdefaults__, name, limit_s)

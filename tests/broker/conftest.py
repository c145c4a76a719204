"""Fixtures of the broker's tests."""

from collections.abc import Iterator

import pytest

from tests.support.servers import ValkeyServer


@pytest.fixture
def own_server() -> Iterator[ValkeyServer]:
    """Return a server that a test may break."""
    server = ValkeyServer().start()
    yield server
    server.stop()

"""Fixtures of the API's tests."""

from typing import Any

import pytest

from runqy.configuration.snapshot import get_snapshot
from runqy.core.environment.connection_urls import RedisTarget
from tests.support.servers import free_port


@pytest.fixture
def redis_away(configuration: None, settings: Any) -> None:
    """Have no Redis, after the configuration was read; before `each_plane`, so that the data plane has none either."""
    get_snapshot()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))


@pytest.fixture
def cluster_away(configuration: None, settings: Any) -> None:
    """Configure a cluster whose nodes do not respond, like `redis_away`."""
    get_snapshot()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),), mode="cluster")

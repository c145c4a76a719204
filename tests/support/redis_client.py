"""Look at the keys of a broker through redis-py's client."""

from functools import cache
from typing import Any

from runqy.broker.broker import Broker
from runqy.core.environment.connection_urls import RedisTarget
from runqy.redis_connection import connect_client

_client_of = cache(connect_client)  # to connect to a cluster takes as long as most tests


def redis_of(broker: Broker) -> Any:
    """Return a client for the Redis of a broker."""
    return client_of(broker.target)


def client_of(target: RedisTarget) -> Any:
    return _client_of(target)

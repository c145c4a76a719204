"""Gives the apps their broker, on the connections that Django's cache uses too."""

from threading import Lock
from typing import Any

from django.conf import settings
from redis import Redis, RedisCluster

from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget, connect_client

_lock = Lock()
_brokers: dict[RedisTarget, Broker] = {}
_latest: tuple[RedisTarget | None, Broker | None] = (None, None)


def get_broker() -> Broker:
    """Return the process's broker, which all threads share.

    Raises BrokerUnavailable when a cluster does not answer.
    """
    target, broker = _latest
    if broker is not None and target is settings.REDIS_TARGET:
        return broker
    return _broker_for(settings.REDIS_TARGET)


def _broker_for(target: RedisTarget) -> Broker:
    """Return the broker of a target, connecting it the first time."""
    global _latest  # noqa: PLW0603 (spares the hot path a lock and the hash of a dataclass)
    with _lock:
        if target not in _brokers:
            _brokers[target] = Broker(connect_client(target))
        _latest = target, _brokers[target]
        return _brokers[target]


class ConnectionFactory:
    """What django-redis asks for clients: it gets the broker's.

    Its own factories know no cluster, and the retries of their clients would run a script twice.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self, url: str) -> Redis | RedisCluster:
        """Return the client for the target in the settings; the URL only stands in for it."""
        return get_broker().client

    def disconnect(self, connection: Redis | RedisCluster) -> None:
        """Leave the connections to the broker, which outlives every cache object."""

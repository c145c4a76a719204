"""The broker of the process, and the client of Django's cache."""

from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from django.conf import settings
from redis import Redis, RedisCluster

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import connect_client
from runqy.core.concurrency import event_loop
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable

CLOCK_VALID_S = 5.0
"""How long a measurement of Redis's clock is valid."""
CHECK_CLOCK_EVERY_S = 0.5
"""How often the clocks of this machine are compared, since a wall clock that was set makes a measurement invalid."""

_failures = FailureLog("broker_available")


@dataclass(slots=True)
class _Current:
    """The broker in use, and when to look at the clocks and to measure Redis's again."""

    target: RedisTarget
    broker: Broker
    check_at_s: float = 0.0
    measure_at_s: float = 0.0
    is_measured: bool = False
    """Whether the last measurement succeeded."""


_lock = Lock()
_brokers: dict[RedisTarget, Broker] = {}
_current: _Current | None = None


def get_broker() -> Broker:
    """Return the broker that all threads of the process share. It is connected by its first request."""
    current = _current
    if current is None or current.target is not settings.REDIS_TARGET:
        current = _select(settings.REDIS_TARGET)
    if clock.monotonic_s() >= current.check_at_s and not event_loop.is_event_loop_running():
        _check_clock(current)
    return current.broker


def _select(target: RedisTarget) -> _Current:
    global _current  # noqa: PLW0603 (spares the hot path a lock and the hash of a dataclass)
    with _lock:
        if target not in _brokers:
            _brokers[target] = Broker(target)
        _current = _Current(target, _brokers[target])
        return _current


def _check_clock(current: _Current) -> None:
    """Measure how far our clock is from Redis's if that is due. If Redis is unavailable, it is due after a second."""
    now_s = clock.monotonic_s()
    current.check_at_s = now_s + CHECK_CLOCK_EVERY_S
    if now_s < current.measure_at_s and not (current.is_measured and current.broker.has_clock_parted):
        return
    current.measure_at_s = now_s + CLOCK_VALID_S
    try:
        current.broker.measure_clock()
    except BrokerUnavailable as error:
        current.measure_at_s, current.is_measured = clock.monotonic_s() + 1, False
        _failures.record("broker_unavailable", key=error.code, error=str(error))
    else:
        current.is_measured = True
        _failures.record_success()


@cache
def cache_client(target: RedisTarget) -> Redis | RedisCluster:
    """Return the client of Django's cache. Raise BrokerUnavailable if a cluster does not respond."""
    return connect_client(target)


class ConnectionFactory:
    """The connection factory of django-redis.

    Its own factories do not support clusters, and their clients repeat commands whose replies were lost.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self, url: str) -> Redis | RedisCluster:
        """Return the client for REDIS_TARGET. The URL is ignored."""
        return cache_client(settings.REDIS_TARGET)

    def disconnect(self, connection: Redis | RedisCluster) -> None:
        """Do nothing: the connections belong to the process."""

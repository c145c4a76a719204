"""The broker of the process, and the client of Django's cache, which is redis-py's."""

from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from django.conf import settings
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.replies import translate_errors
from runqy.core.concurrency import event_loop
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable

CONNECT_TIMEOUT_S = 1.5
REPLY_TIMEOUT_S = 1.0
"""A Redis that is silent for this long is considered unresponsive, as on an event loop."""
CLOCK_VALID_S = 5.0
"""How long a measurement of Redis's clock is valid."""
CHECK_CLOCK_EVERY_S = 0.5
"""How often the clocks of this machine are compared, since a wall clock that was set makes a measurement invalid."""


def connect_client(target: RedisTarget) -> "Redis | RedisCluster":
    """Return a redis-py client that never repeats a command: a script whose reply was lost may have run."""
    options: dict[str, Any] = {
        "username": target.username or None,
        "password": target.password or None,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_keepalive": True,
        "protocol": 2,
    }
    options |= _tls_options(target)
    host, port = target.addresses[0]
    no_retry = Retry(NoBackoff(), 0)
    if target.mode == "cluster":
        with translate_errors():
            return RedisCluster(
                startup_nodes=[ClusterNode(h, p) for h, p in target.addresses], retry=no_retry, **options
            )
    options["retry"] = no_retry
    if target.mode == "sentinel":
        sentinel_options = options | {
            "username": target.sentinel_username or None,
            "password": target.sentinel_password or None,
        }
        sentinel = Sentinel(list(target.addresses), sentinel_kwargs=sentinel_options, db=target.db, **options)
        master: Redis = sentinel.master_for(target.master_name)
        return master
    return Redis(host=host, port=port, db=target.db, **options)


def _tls_options(target: RedisTarget) -> dict[str, Any]:
    if not target.use_tls:
        return {}
    key = "ssl_ca_data" if target.ca_certificate.lstrip().startswith("-----BEGIN") else "ssl_ca_certs"
    return {"ssl": True, "ssl_cert_reqs": "required", key: target.ca_certificate or None}


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


def get_broker(*, needs_clock: bool = True) -> Broker:
    """Return the broker that all threads of the process share. It is connected by its first request.

    Measuring its clock, which is due every few seconds, takes as long as Redis lets it wait.
    """
    current = _current
    if current is None or current.target is not settings.REDIS_TARGET:
        current = _select(settings.REDIS_TARGET)
    if needs_clock and clock.monotonic_s() >= current.check_at_s and not event_loop.is_event_loop_running():
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

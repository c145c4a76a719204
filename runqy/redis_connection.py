"""The broker of the process. Django's cache shares its connections."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from django.conf import settings
from redis import Redis, RedisCluster

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import RedisTarget, connect_client
from runqy.broker.memory import MemoryUse
from runqy.broker.request import Request
from runqy.concurrency.circuit_breaker import BackgroundCall
from runqy.errors import BrokerUnavailable, RunqyError
from runqy.telemetry.failure_log import FailureLog

CLOCK_VALID_S = 5.0
"""How long a measurement of Redis's clock is valid."""
CHECK_CLOCK_EVERY_S = 0.5
"""How often the clocks of this machine are compared, since a wall clock that was set makes a measurement invalid."""

T = TypeVar("T")

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
_attempts: dict[RedisTarget, BackgroundCall] = {}
"""Connection attempts to clusters. A cluster's nodes are read when its client is created."""
_current: _Current | None = None


def get_broker() -> Broker:
    """Return the broker that all threads of the process share.

    Raise BrokerUnavailable if a cluster does not respond.
    """
    current = _current
    if current is None or current.target is not settings.REDIS_TARGET:
        current = _connect(settings.REDIS_TARGET)
    if clock.monotonic_s() >= current.check_at_s:
        _check_clock(current)
    return current.broker


class ProcessBroker:
    """The broker of `get_broker` for an operation, which connects it when it first needs it.

    So an operation that handles BrokerUnavailable also handles a cluster that has never responded.
    """

    @property
    def is_cluster(self) -> bool:
        return get_broker().is_cluster

    @property
    def memory(self) -> MemoryUse:
        return get_broker().memory

    def now_ns(self) -> int:
        return get_broker().now_ns()

    async def send(self, request: Request[T]) -> T:
        return await get_broker().send(request)

    async def send_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        return await get_broker().send_all(requests)


PROCESS_BROKER = ProcessBroker()


def _connect(target: RedisTarget) -> _Current:
    """Return the broker of a target, connected first if necessary. Raise BrokerUnavailable."""
    global _current  # noqa: PLW0603 (spares the hot path a lock and the hash of a dataclass)
    if target.mode == "cluster" and target not in _brokers:
        with _lock:
            attempt = _attempts.setdefault(target, BackgroundCall(lambda: _make_broker(target), (RunqyError,)))
        has_ended = attempt.run()  # it reads the cluster's nodes, and waits for each one that does not respond
        if target not in _brokers:
            raise (attempt.error if has_ended else None) or BrokerUnavailable()
    with _lock:
        if target not in _brokers:
            _make_broker(target)
        _current = _Current(target, _brokers[target])
        return _current


def _make_broker(target: RedisTarget) -> None:
    _brokers[target] = Broker(connect_client(target))


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


class ConnectionFactory:
    """The connection factory of django-redis. It returns the broker's client.

    django-redis's own factories do not support clusters, and their clients' retries would run a script twice.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self, url: str) -> Redis | RedisCluster:
        """Return the client for REDIS_TARGET. The URL is ignored."""
        return get_broker().client

    def disconnect(self, connection: Redis | RedisCluster) -> None:
        """Do nothing: the connections belong to the broker."""

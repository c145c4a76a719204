"""The broker that all of a process shares, and its clock."""

import time
from typing import Any

import pytest
from django.core.cache import cache

from runqy import clock
from runqy.core.environment.connection_urls import RedisTarget, parse_redis_url
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker
from tests.support.environment import SERVER
from tests.support.servers import free_port


def test_the_cache_is_in_the_same_redis_and_its_client_repeats_nothing(redis: Any) -> None:
    cache.set("greeting", "hello", timeout=10)

    assert cache.get("greeting") == "hello"
    assert cache.client.get_client().get_retry().get_retries() == 0
    assert len(redis.keys("runqy:cache:*greeting")) == 1


@pytest.mark.cluster
def test_a_cluster_is_connected_by_its_url(cluster_target: RedisTarget, settings: Any) -> None:
    hosts = ",".join(f"{host}:{port}" for host, port in cluster_target.addresses)
    settings.REDIS_TARGET = parse_redis_url(f"redis+cluster://{hosts}")
    settings.CACHES = dict(settings.CACHES)  # lets Django forget the clients it has

    assert get_broker().is_cluster
    cache.set("greeting", "hello", timeout=10)
    assert cache.get("greeting") == "hello"


def test_the_brokers_time_is_that_of_redis(redis: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_ns", lambda: time.time_ns() + 300 * 10**9)
    settings.REDIS_TARGET = parse_redis_url(f"redis://127.0.0.1:{SERVER.port}")

    assert abs(get_broker().now_s() - redis.time()[0]) < 100  # replies may be late


def test_an_unavailable_redis_still_has_a_broker(settings: Any) -> None:
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    with pytest.raises(BrokerUnavailable):
        get_broker().measure_clock()

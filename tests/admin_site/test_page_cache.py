"""Pages share numbers through Redis, of a known type and for a moment, and lose only the cache when it is away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis as redis_py
from django.core.cache import caches

from runqy.admin_site import page_cache
from runqy.admin_site.page_cache import CircuitBreaker, get_or_read
from runqy.broker.replies import REDIS_ERRORS
from runqy.core.environment.connection_urls import parse_redis_url
from tests.support.processes import paused
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What a page shows."""

    by_queue: dict[str, int]


def count(number: int) -> Callable[[], Numbers]:
    return lambda: Numbers(by_queue={"mail": number})


def read(number: int, **options: bool) -> int:
    return get_or_read("numbers", Numbers, count(number), max_age_s=60, **options).by_queue["mail"]


def test_a_value_is_shared_until_it_is_too_old_or_must_be_fresh(redis: redis_py.Redis) -> None:
    (key,) = [read(1), read(2)] == [1, 1] and redis.keys("runqy:cache:*numbers")
    assert 50_000 < redis.pttl(key) <= 60_000

    assert [read(3, is_fresh=True), read(4)] == [3, 3]
    redis.delete(key)
    assert read(5) == 5


def test_nothing_is_a_value_too(redis: redis_py.Redis) -> None:
    read = [get_or_read("nothing", int | None, lambda value=value: value, max_age_s=60) for value in (None, 1)]

    assert read == [None, None]


@pytest.mark.parametrize("written", [b"<script>", b"\xff", b"[1]", b'[{"by_queue": {"mail": "<b>"}}]', b"{}", b"7"])
def test_values_of_another_type_are_not_shown(redis: redis_py.Redis, written: bytes) -> None:
    read(1)
    (key,) = redis.keys("runqy:cache:*numbers")
    redis.set(key, written)

    assert read(2) == 2


@pytest.fixture
def own_redis(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
    """Let the cache use a Redis of the test's own."""
    server = ValkeyServer().start()
    settings.REDIS_TARGET = parse_redis_url(server.url)
    settings.CACHES = dict(settings.CACHES)  # lets Django forget the clients it has
    monkeypatch.setattr(page_cache, "_breaker", CircuitBreaker(REDIS_ERRORS))
    yield server
    server.stop()


def test_without_redis_every_page_reads(own_redis: ValkeyServer) -> None:
    read(1)
    own_redis.kill()
    without = [read(2), read(3)]
    own_redis.start()

    assert without == [2, 3]
    wait_until(lambda: read(4) == read(5))


def test_a_full_redis_caches_nothing(own_redis: ValkeyServer) -> None:
    own_redis.client().config_set("maxmemory", 1)

    assert [read(1), read(2)] == [1, 2]


def test_a_silent_redis_is_waited_for_once(own_redis: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = caches["default"]
    get, calls = backend.get, []
    monkeypatch.setattr(backend, "get", lambda key: calls.append(key) or get(key))
    assert own_redis.process
    with paused(own_redis.process.pid):
        found = [read(number) for number in range(20)]

    assert found == list(range(20))
    assert len(calls) < 10  # each would take a second

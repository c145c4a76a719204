"""A process reads the database once a second, and Redis while that fails or hangs."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py
from structlog.testing import capture_logs

from runqy.configuration import snapshot
from runqy.configuration.documents import DocumentKind
from runqy.configuration.snapshot import Poller, get_cache, get_newest, get_snapshot
from runqy.redis_connection import get_broker
from tests.configuration.support import away, elsewhere, put, remove, take_database_away
from tests.support.links import count_round_trips
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.usefixtures("configuration")


def body(name: str = "a") -> bytes | None:
    """Return what the process knows, without I/O."""
    found = snapshot.current_snapshot().find(DocumentKind.QUEUE, name)
    return found.body if found else None


class Stores:
    """A database that responds only when allowed, and Redis; after the test neither responds, so that threads stop."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.database_reads = self.redis_reads = 0
        self.is_over = threading.Event()
        self.stopped = threading.Semaphore(0)
        self._threads = 0
        self._poller = Poller(refresh=self.refresh, read_redis=self.read_redis)

    def start_poller(self) -> Poller:
        self._poller.start()
        self._threads = 2  # one polls, the other watches whether that hangs
        return self._poller

    def stop(self) -> None:
        """Stop both threads of the poller, if it was started: they look at the clock, which later tests replace."""
        self.is_over.set()
        self.may_answer.set()
        self._poller.wait_for_read(0)
        for _ in range(self._threads):
            assert self.stopped.acquire(timeout=PATIENCE_S)

    def refresh(self) -> None:
        self.may_answer.wait()
        self._stop_after_test()
        self.database_reads += 1

    def read_redis(self) -> None:
        self._stop_after_test()
        self.redis_reads += 1

    def _stop_after_test(self) -> None:
        if self.is_over.is_set():
            self.stopped.release()
            threading.Event().wait()


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    monkeypatch.setattr(snapshot, "POLL_EVERY_S", 0.01)
    monkeypatch.setattr(snapshot, "CHECK_EVERY_S", 0.01)
    stores = Stores()
    yield stores
    monkeypatch.setattr(snapshot, "HANGS_AFTER_S", -1.0)  # so that the other thread reads too
    stores.stop()


def test_what_another_process_committed_is_known_without_redis(settings: Any) -> None:
    put("a", b"1")
    put("gone")
    get_snapshot()
    settings.REDIS_TARGET = away()
    with elsewhere():
        put("a", b"2")
        remove("gone")

    get_cache().refresh()

    assert body() == b"2"
    assert body("gone") is None


def test_one_query_reads_only_what_is_newer_and_redis_is_not_read(
    django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a", b"1")
    get_cache().refresh()
    with elsewhere():
        put("b", b"2")
    trips = count_round_trips(monkeypatch, get_broker())

    with django_assert_num_queries(1) as captured:
        get_cache().refresh()
    with django_assert_num_queries(1):
        get_cache().refresh()

    assert trips == []
    assert body("b") == b"2"
    assert '"revision" > ' in captured.captured_queries[0]["sql"]


def test_a_database_that_is_away_is_logged_once_and_read_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    put("a", b"1")
    get_cache().refresh()
    with elsewhere():
        put("a", b"2")
    redis.flushall()

    with capture_logs() as logs:
        with monkeypatch.context() as patched:
            take_database_away(patched)
            get_cache().refresh()
            get_cache().refresh()
            assert body() == b"1"
        get_cache().refresh()

    events = [log["event"] for log in logs]
    assert events.count("configuration_not_read_from_database") == 1
    assert events[-1] == "configuration_read_from_database"
    assert body() == b"2"


def test_a_database_that_hangs_does_not_delay_reading_redis(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "HANGS_AFTER_S", 0.1)
    stores.start_poller()
    wait_until(lambda: stores.database_reads)

    stores.may_answer.clear()
    wait_until(lambda: stores.redis_reads)
    stores.may_answer.set()
    before = stores.database_reads

    wait_until(lambda: stores.database_reads > before)


def test_a_request_waits_for_a_read_that_begins_after_it(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "POLL_EVERY_S", 3600)
    poller = stores.start_poller()
    poller.wait_for_read(PATIENCE_S)
    before = stores.database_reads

    poller.wait_for_read(PATIENCE_S)

    assert stores.database_reads > before


def test_while_a_store_hangs_requests_use_the_last_snapshot(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a", b"1")
    get_snapshot()
    stores.may_answer.clear()
    monkeypatch.setattr(snapshot, "_poller", stores.start_poller())

    assert get_snapshot() is get_newest() is get_snapshot(0)


def test_a_process_polls_on_its_own_threads_and_so_does_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Poller] = []
    monkeypatch.setattr(Poller, "start", lambda poller: started.append(poller))  # noqa: PLW0108 (a list's method gets no instance)
    monkeypatch.setattr(snapshot, "_poller", None)

    threads = [threading.Thread(target=START_POLLING) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(snapshot.os, "getpid", lambda: -1)
    START_POLLING()

    assert len(started) == 2


START_POLLING = snapshot.start_polling
"""The function itself: in tests it is replaced by one that does nothing."""

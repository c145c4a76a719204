"""The process's snapshot: read without I/O, refreshed by an operation that any driver can run."""

from typing import Any

import pytest

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.operation import Operation, Request
from runqy.config_sync import snapshot
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.operations import configuration_change
from runqy.config_sync.snapshot import MAX_AGE_S, SnapshotCache, current_snapshot
from runqy.errors import ConfigurationUnavailable
from runqy.redis_connection import get_broker
from tests.config_sync.support import away, elsewhere, put

pytestmark = pytest.mark.usefixtures("configuration")


def body(cache: SnapshotCache, name: str = "a") -> bytes | None:
    """Return what a cache knows about a queue."""
    found = cache.current().find(DocumentKind.QUEUE, name)
    return found.body if found else None


def step(broker: Broker, operation: Operation[Any], outcome: Any = None) -> Any:
    """Run the next request of an operation, and return its outcome for the step after it."""
    request = operation.send(outcome)
    assert isinstance(request, Request)
    return broker.run(request)


def test_a_new_process_has_no_configuration_until_it_is_refreshed() -> None:
    put("a", b"1")
    cache = SnapshotCache()

    assert cache.is_stale()
    with pytest.raises(ConfigurationUnavailable):
        cache.current()
    get_broker().run(cache.refresh())

    assert not cache.is_stale()
    assert body(cache) == b"1"


def test_stored_documents_are_loaded_before_redis_is_read() -> None:
    put("a", b"1")
    cache = SnapshotCache()

    cache.load_stored()

    assert body(cache) == b"1"
    assert cache.is_stale()


def test_reading_does_no_io_however_old_the_snapshot_is(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a", b"1")
    with elsewhere():
        put("a", b"2")
    later_s = clock.monotonic_s() + 2 * MAX_AGE_S
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)
    monkeypatch.setattr(snapshot, "get_broker", pytest.fail)

    assert current_snapshot().find(DocumentKind.QUEUE, "a").body == b"1"  # type: ignore[union-attr]
    assert snapshot.get_cache().is_stale()


def test_a_process_knows_at_once_what_it_has_committed_whether_or_not_redis_does(settings: Any) -> None:
    put("a", b"1")
    snapshot.get_snapshot()

    settings.REDIS_TARGET = away()
    put("a", b"2")

    assert current_snapshot().find(DocumentKind.QUEUE, "a").body == b"2"  # type: ignore[union-attr]


def test_a_slow_refresh_does_not_undo_a_newer_one() -> None:
    put("a", b"1")
    broker, cache = get_broker(), SnapshotCache()
    slow = cache.refresh()
    documents = step(broker, slow, step(broker, slow, step(broker, slow)))
    put("a", b"2")
    broker.run(cache.refresh())

    with pytest.raises(StopIteration):
        slow.send(documents)

    assert body(cache) == b"2"


def test_many_documents_are_read_in_requests_of_500() -> None:
    with configuration_change() as change:
        for number in range(501):
            change.put(DocumentKind.QUEUE, f"q{number}", b"{}")
    broker, cache = get_broker(), SnapshotCache()
    refresh, outcome = cache.refresh(), None

    for _ in ("digest", "revisions", "500 documents", "the last document"):
        outcome = step(broker, refresh, outcome)
    with pytest.raises(StopIteration):
        refresh.send(outcome)

    assert len(cache.current().documents) == 501

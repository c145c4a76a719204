"""The configuration as a process reads it, and the documents that it rejects."""

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import redis as redis_py
from django.conf import settings
from django.db import DatabaseError, connection
from structlog.testing import capture_logs

from runqy import clock
from runqy.broker import keys
from runqy.config_sync import snapshot
from runqy.config_sync.documents import Document, DocumentKind, InvalidSignature, sign, signing_key, verify
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.snapshot import MAX_AGE_S, SnapshotCache, get_newest, get_snapshot
from runqy.errors import ConfigurationUnavailable
from tests.config_sync.support import away, documents, plant, put, remove, revision
from tests.support.silent_redis import silent_redis
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("configuration")


def take_database_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail every read of stored documents, as a database that is down does."""

    def fail(**_: object) -> None:
        raise DatabaseError("down")

    monkeypatch.setattr(StoredDocument.objects, "filter", fail)


def bodies() -> dict[str, bytes | None]:
    """Return what the process knows, compared with Redis now."""
    return {name: document.body for name, document in get_snapshot(0).of_kind(DocumentKind.QUEUE).items()}


def test_a_process_sees_what_others_published() -> None:
    put("a", b"1")
    assert bodies() == {"a": b"1"}

    put("a", b"2")
    put("b", b"3")
    remove("a")

    assert bodies() == {"b": b"3"}


def test_the_database_is_queried_only_at_the_start(django_assert_num_queries) -> None:
    put("a", b"1")
    get_snapshot()
    put("a", b"2")

    with django_assert_num_queries(0):
        assert bodies() == {"a": b"2"}


def test_redis_is_compared_at_most_once_a_second(monkeypatch, redis: redis_py.Redis) -> None:
    now_s = 100.0
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    put("a", b"1")
    get_snapshot()
    plant(redis, "queue:a", sign(_document("a", b"2", revision("a") + 1), _key()), revision("a") + 1)

    now_s = 100.9
    assert get_snapshot().find(DocumentKind.QUEUE, "a").body == b"1"
    now_s = 101.0
    assert get_snapshot().find(DocumentKind.QUEUE, "a").body == b"2"


def test_while_one_thread_compares_the_others_go_on(monkeypatch) -> None:
    put("a", b"1")
    get_snapshot()
    is_comparing, may_go_on = threading.Event(), threading.Event()

    def slow_broker():
        is_comparing.set()
        may_go_on.wait(30)
        return real()

    real = snapshot.get_broker
    monkeypatch.setattr(snapshot, "get_broker", slow_broker)
    thread = threading.Thread(target=snapshot.refresh)
    thread.start()
    is_comparing.wait(30)

    assert get_snapshot().find(DocumentKind.QUEUE, "a").body == b"1"
    may_go_on.set()
    thread.join()


def test_threads_that_ask_for_now_share_a_comparison_that_began_after(monkeypatch) -> None:
    put("a", b"1")
    get_snapshot()
    is_comparing, may_go_on = threading.Event(), threading.Event()
    queries, compared = Counter(), []

    def now_s():
        queries[threading.get_ident()] += 1
        return time.monotonic()

    def read_slowly():
        compared.append(1)
        is_comparing.set()
        may_go_on.wait(30)
        return real()

    real = snapshot.config_documents.read_head
    monkeypatch.setattr(snapshot.config_documents, "read_head", read_slowly)
    monkeypatch.setattr(clock, "monotonic_s", now_s)
    threads = [threading.Thread(target=get_snapshot, args=(0,)) for _ in range(5)]
    threads[0].start()
    is_comparing.wait(30)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: all(queries[thread.ident] >= 2 for thread in threads[1:]))  # each checked whether it is stale
    may_go_on.set()
    for thread in threads:
        thread.join()

    assert len(compared) == 2  # the first one's began before the others queried


def test_lookups_of_unknown_objects_do_not_wait_long_while_redis_hangs(monkeypatch) -> None:
    put("a", b"1")
    get_snapshot()
    is_comparing, may_go_on = threading.Event(), threading.Event()

    def hanging_broker():
        is_comparing.set()
        may_go_on.wait(30)
        return real()

    real = snapshot.get_broker
    monkeypatch.setattr(snapshot, "get_broker", hanging_broker)
    thread = threading.Thread(target=get_newest)
    thread.start()
    is_comparing.wait(30)

    assert get_newest().find(DocumentKind.QUEUE, "a").body == b"1"
    assert thread.is_alive()
    may_go_on.set()
    thread.join()


def test_what_is_derived_from_a_snapshot_is_made_once() -> None:
    put("a", b"1")
    made = []

    first = get_snapshot().derive("names", lambda s: made.append(1) or sorted(s.documents))
    second = get_snapshot(0).derive("names", lambda s: made.append(1) or sorted(s.documents))

    assert first is second
    assert first == ["queue:a"]
    assert made == [1]


def test_a_process_keeps_what_it_knows_when_redis_goes_away_or_is_emptied(settings, redis: redis_py.Redis) -> None:
    put("a", b"1")
    get_snapshot()

    redis.flushall()
    assert bodies() == {"a": b"1"}

    settings.REDIS_TARGET = away()
    assert bodies() == {"a": b"1"}


@pytest.mark.parametrize("ask", [get_snapshot, get_newest])
def test_a_comparison_that_took_long_and_failed_is_not_made_again_at_once(settings, monkeypatch, ask) -> None:
    now_s, record_failure = 100.0, SnapshotCache.record_failure

    def fail_late(cache, error):
        nonlocal now_s
        now_s += MAX_AGE_S + 0.2
        record_failure(cache, error)

    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    monkeypatch.setattr(SnapshotCache, "record_failure", fail_late)
    put("a")
    get_snapshot()
    with silent_redis(monkeypatch, patience_s=0.2) as silent:
        settings.REDIS_TARGET = silent.target
        snapshot.refresh()
        assert silent.count_calls()

        ask()

        assert silent.count_calls() == 0


def test_a_process_that_begins_on_an_empty_redis_reads_the_database(redis: redis_py.Redis) -> None:
    put("a", b"1")
    redis.flushall()
    snapshot.forget()

    assert bodies() == {"a": b"1"}


def test_a_process_that_begins_without_redis_reads_the_database(settings) -> None:
    put("a", b"1")
    snapshot.forget()
    settings.REDIS_TARGET = away()

    assert bodies() == {"a": b"1"}


def test_a_process_that_begins_without_the_database_reads_redis(monkeypatch) -> None:
    put("a", b"1")
    snapshot.forget()
    take_database_away(monkeypatch)

    assert bodies() == {"a": b"1"}


def test_without_both_the_configuration_is_unavailable_rather_than_empty(settings, monkeypatch) -> None:
    take_database_away(monkeypatch)
    with pytest.raises(ConfigurationUnavailable):
        get_snapshot()

    settings.REDIS_TARGET = away()
    with pytest.raises(ConfigurationUnavailable):
        get_snapshot()


@pytest.mark.parametrize("what", ["body", "revision", "name", "kind", "another key", "no document"])
def test_a_document_that_the_server_did_not_sign_is_refused_and_reported(redis: redis_py.Redis, what: str) -> None:
    put("a", b"1")
    put("b", b"1", kind=DocumentKind.VAULT)
    get_snapshot()
    good, newer = redis.hget(keys.CONFIG_DOCUMENTS, "queue:a"), revision("a") + 1
    forged = {
        "body": good + b"0",
        "revision": good.replace(b"%d" % revision("a"), b"%d" % newer),
        "name": sign(_document("other", b"2", newer), _key()),
        "kind": sign(Document(kind=DocumentKind.VAULT, name="a", revision=newer, effective=newer, body=b"2"), _key()),
        "another key": sign(_document("a", b"2", newer), b"k" * 32),
        "no document": b"\xff",
    }
    plant(redis, "queue:a", forged[what], newer)

    with capture_logs() as logs:
        assert bodies() == {"a": b"1"}

    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["published_document_refused"]


def test_an_older_document_is_refused_and_reported(redis: redis_py.Redis) -> None:
    put("a", b"1")
    old, old_revision = redis.hget(keys.CONFIG_DOCUMENTS, "queue:a"), revision("a")
    put("a", b"2")
    get_snapshot()
    plant(redis, "queue:a", old, old_revision)

    with capture_logs() as logs:
        assert bodies() == {"a": b"2"}

    assert "older than one seen before" in logs[-1]["reason"]


def test_a_starting_process_refuses_an_older_document(redis: redis_py.Redis) -> None:
    put("a", b"1")
    old, old_revision = redis.hget(keys.CONFIG_DOCUMENTS, "queue:a"), revision("a")
    remove("a")
    snapshot.forget()
    plant(redis, "queue:a", old, old_revision)

    assert bodies() == {}


def test_what_is_missing_in_redis_is_not_deleted(redis: redis_py.Redis) -> None:
    put("a", b"1")
    get_snapshot()
    redis.delete(keys.CONFIG_DOCUMENTS, keys.CONFIG_REVISIONS)
    redis.set(keys.CONFIG_HEAD, "other")

    assert bodies() == {"a": b"1"}


def test_a_document_is_verified_only_for_its_own_field() -> None:
    content = sign(_document("a", b'{"x": "1 2"}', 7), _key())

    assert verify("queue:a", content, _key()) == _document("a", b'{"x": "1 2"}', 7)
    for key in ("queue:b", "vault:a", "queue:", "nothing", ""):
        with pytest.raises(InvalidSignature):
            verify(key, content, _key())


def test_the_quiet_mark_of_a_document_is_signed() -> None:
    quiet = replace(_document("a", b"1", 7), effective=5)
    content = sign(quiet, _key())

    assert verify("queue:a", content, _key()) == quiet
    for altered in (content.replace(b"2 7 5", b"2 7 6"), content.replace(b"2 7 5", b"1 7"), content[2:]):
        with pytest.raises(InvalidSignature):
            verify("queue:a", altered, _key())


def test_two_threads_that_begin_at_once_read_the_database_once(redis: redis_py.Redis, monkeypatch) -> None:
    put("a", b"1")
    snapshot.forget()
    reads, found = [], []
    real, have_all_begun = SnapshotCache.load_stored, threading.Event()

    def load(cache: SnapshotCache) -> object:
        reads.append(1)
        assert have_all_begun.wait(30)
        return real(cache)

    monkeypatch.setattr(SnapshotCache, "load_stored", load)

    def begin() -> None:
        found.append(get_snapshot().find(DocumentKind.QUEUE, "a"))
        connection.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    have_all_begun.set()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(reads) == 1
    assert documents(redis)["queue:a"] == found[0]


def _document(name: str, body: bytes, at: int) -> Document:
    return Document(kind=DocumentKind.QUEUE, name=name, revision=at, effective=at, body=body)


def _key() -> bytes:
    return signing_key(settings.SECRET_KEY)

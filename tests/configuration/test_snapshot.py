"""The configuration as a process reads it, and the documents that it rejects."""

import contextlib
import threading
from dataclasses import replace

import pytest
import redis as redis_py
from django.conf import settings
from django.db import connection
from structlog.testing import capture_logs

from runqy import clock
from runqy.broker import keys
from runqy.configuration import snapshot
from runqy.configuration.documents import (
    Document,
    DocumentKind,
    InvalidSignature,
    sign,
    sign_revisions,
    signing_key,
    verify,
)
from runqy.configuration.operations import configuration_change
from runqy.configuration.snapshot import MAX_AGE_S, SnapshotCache, current_snapshot, get_snapshot
from runqy.errors import ConfigurationUnavailable
from tests.configuration.support import (
    away,
    documents,
    elsewhere,
    publish_elsewhere,
    put,
    remove,
    revision,
    take_database_away,
)

pytestmark = pytest.mark.usefixtures("configuration")


def bodies() -> dict[str, bytes | None]:
    """Return what the process knows, refreshed now."""
    return {name: document.body for name, document in get_snapshot(0).of_kind(DocumentKind.QUEUE).items()}


def test_a_process_sees_what_others_published() -> None:
    put("a", b"1")
    assert bodies() == {"a": b"1"}

    put("a", b"2")
    put("b", b"3")
    remove("a")

    assert bodies() == {"b": b"3"}


def test_the_database_is_read_at_most_once_a_second(monkeypatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    put("a", b"1")
    with elsewhere():
        put("a", b"2")

    now_s = 100.9
    assert get_snapshot().find(DocumentKind.QUEUE, "a").body == b"1"
    now_s = 101.0
    assert get_snapshot().find(DocumentKind.QUEUE, "a").body == b"2"


def test_reading_does_no_io_however_old_the_snapshot_is(monkeypatch, django_assert_num_queries) -> None:
    put("a", b"1")
    with elsewhere():
        put("a", b"2")
    later_s = clock.monotonic_s() + 2 * MAX_AGE_S
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)
    monkeypatch.setattr(snapshot, "get_broker", pytest.fail)

    with django_assert_num_queries(0):
        assert current_snapshot().find(DocumentKind.QUEUE, "a").body == b"1"


def test_a_process_knows_at_once_what_it_has_committed_whether_or_not_redis_does(settings) -> None:
    put("a", b"1")
    get_snapshot()

    settings.REDIS_TARGET = away()
    put("a", b"2")

    assert current_snapshot().find(DocumentKind.QUEUE, "a").body == b"2"


def test_changes_of_an_open_transaction_are_not_used() -> None:
    put("a", b"1")
    get_snapshot()

    with contextlib.suppress(ZeroDivisionError), configuration_change() as change:
        change.put(DocumentKind.QUEUE, "a", b"2")
        assert bodies() == {"a": b"1"}
        raise ZeroDivisionError

    assert bodies() == {"a": b"1"}


def test_a_process_keeps_its_snapshot_when_redis_is_unavailable_or_emptied(settings, redis: redis_py.Redis) -> None:
    put("a", b"1")
    get_snapshot()

    redis.flushall()
    assert bodies() == {"a": b"1"}

    settings.REDIS_TARGET = away()
    assert bodies() == {"a": b"1"}


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
def test_without_the_database_a_document_that_the_server_did_not_sign_is_refused_and_reported(
    redis: redis_py.Redis, monkeypatch, what: str
) -> None:
    put("a", b"1")
    put("b", b"1", kind=DocumentKind.VAULT)
    get_snapshot()
    take_database_away(monkeypatch)
    good, newer = redis.hget(keys.CONFIG_DOCUMENTS, "queue:a"), revision("a") + 1
    forged = {
        "body": good + b"0",
        "revision": good.replace(b"%d" % revision("a"), b"%d" % newer),
        "name": sign(_document("other", b"2", newer), _key()),
        "kind": sign(replace(_document("a", b"2", newer), kind=DocumentKind.VAULT), _key()),
        "another key": sign(_document("a", b"2", newer), b"k" * 32),
        "no document": b"\xff",
    }
    redis.hset(keys.CONFIG_DOCUMENTS, "queue:a", forged[what])
    publish_elsewhere(redis, revisions={"queue:a": newer})

    with capture_logs() as logs:
        assert bodies() == {"a": b"1"}

    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["published_document_refused"]
    assert "published_configuration_refused" in [log["event"] for log in logs]


def test_without_the_database_newer_documents_of_redis_are_applied_and_older_ones_refused(
    redis: redis_py.Redis, monkeypatch
) -> None:
    put("a", b"1")
    put("b", b"1")
    get_snapshot()
    take_database_away(monkeypatch)
    publish_elsewhere(redis, _document("a", b"2", revision("a") + 10), _document("b", b"0", revision("b") - 1))

    with capture_logs() as logs:
        assert bodies() == {"a": b"2", "b": b"1"}

    assert "older" in logs[-1]["reason"]


def test_a_starting_process_that_reaches_the_database_ignores_an_older_state_of_redis(redis: redis_py.Redis) -> None:
    put("a", b"1")
    before = {key: redis.dump(key) for key in (keys.CONFIG_DOCUMENTS, keys.CONFIG_REVISIONS)}
    remove("a")
    snapshot.forget()
    for key, content in before.items():
        redis.restore(key, 0, content, replace=True)

    assert bodies() == {}


def test_documents_missing_in_redis_are_not_deleted(redis: redis_py.Redis, monkeypatch) -> None:
    put("a", b"1")
    get_snapshot()
    take_database_away(monkeypatch)
    redis.delete(keys.CONFIG_DOCUMENTS)
    redis.set(keys.CONFIG_REVISIONS, sign_revisions({}, _key()))

    assert bodies() == {"a": b"1"}


def test_many_documents_are_read_from_redis_in_requests_of_500(redis: redis_py.Redis, monkeypatch) -> None:
    with configuration_change() as change:
        change.put_all(DocumentKind.QUEUE, {f"q{number}": (b"{}", []) for number in range(501)})
    snapshot.forget()
    take_database_away(monkeypatch)
    asked: list[int] = []
    read = snapshot.configuration_documents.read_documents
    monkeypatch.setattr(
        snapshot.configuration_documents, "read_documents", lambda fields: asked.append(len(fields)) or read(fields)
    )

    assert len(get_snapshot().documents) == 501
    assert asked == [500, 1]


def test_a_document_is_verified_only_for_its_own_field() -> None:
    content = sign(_document("a", b'{"x": "1 2"}', 7), _key())

    assert verify("queue:a", content, _key()) == _document("a", b'{"x": "1 2"}', 7)
    for key in ("queue:b", "vault:a", "queue:", "nothing", ""):
        with pytest.raises(InvalidSignature):
            verify(key, content, _key())


def test_both_revisions_of_a_document_are_signed() -> None:
    document = replace(_document("a", b"1", 7), worker_revision=5)
    content = sign(document, _key())

    assert verify("queue:a", content, _key()) == document
    for altered in (content.replace(b"7 5", b"7 6"), content.replace(b"7 5", b"8 5"), content[2:]):
        with pytest.raises(InvalidSignature):
            verify("queue:a", altered, _key())


def test_two_threads_that_begin_at_once_read_the_database_once(redis: redis_py.Redis, monkeypatch) -> None:
    put("a", b"1")
    snapshot.forget()
    reads, found = [], []
    real, have_all_begun = SnapshotCache.read_database, threading.Event()

    def read(cache: SnapshotCache) -> object:
        reads.append(1)
        assert have_all_begun.wait(30)
        return real(cache)

    monkeypatch.setattr(SnapshotCache, "read_database", read)

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
    return Document(kind=DocumentKind.QUEUE, name=name, revision=at, worker_revision=at, body=body)


def _key() -> bytes:
    return signing_key(settings.SECRET_KEY)

"""What reaches Redis when configuration is saved, and in which order."""

import contextlib
import threading

import pytest
import redis as redis_py
from django.db import connection, transaction

from runqy.broker import keys
from runqy.broker.configuration_documents import (
    QueueRevision,
    publish_queue_revisions,
    read_all,
    read_documents,
    read_revisions,
)
from runqy.broker.configuration_documents import publish as publish_documents
from runqy.configuration import operations, publishing
from runqy.configuration.documents import DocumentKind
from runqy.configuration.models import StoredDocument
from runqy.configuration.operations import configuration_change
from runqy.configuration.publishing import compare_configuration
from runqy.configuration.snapshot import get_snapshot
from tests.configuration.support import documents, put, remove, revision, revisions
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed

pytestmark = pytest.mark.usefixtures("configuration")


def test_a_saved_document_is_published_after_the_commit(redis: redis_py.Redis) -> None:
    with transaction.atomic():
        put("a", b'{"n":1}')
        assert documents(redis) == {}

    assert documents(redis)["queue:a"].body == b'{"n":1}'
    assert revisions(redis) == {"queue:a": revision("a")}


def test_nothing_is_published_when_the_transaction_fails(redis: redis_py.Redis) -> None:
    with contextlib.suppress(ZeroDivisionError), configuration_change() as change:
        change.put(DocumentKind.QUEUE, "a", b"{}")
        raise ZeroDivisionError

    assert documents(redis) == {}
    assert not StoredDocument.objects.exists()


def test_a_deletion_is_a_document_too(redis: redis_py.Redis) -> None:
    put("a")
    before = revision("a")

    remove("a")

    gone = documents(redis)["queue:a"]
    assert gone.body is None
    assert gone.revision > before


def test_saving_the_same_again_publishes_nothing(redis: redis_py.Redis) -> None:
    put("a")
    before = (revision("a"), redis.get(keys.CONFIG_REVISIONS))

    put("a")

    assert (revision("a"), redis.get(keys.CONFIG_REVISIONS)) == before


def test_the_later_of_two_commits_stays_published(redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first saver is held up after it has read the database, and the second overtakes it."""
    read, saved = publishing._read_documents, []  # noqa: SLF001 (between the two stores)

    def read_and_save(rows):
        found = read(rows)
        if not saved:
            saved.append(True)
            put("a", b'{"n":2}')
        return found

    monkeypatch.setattr(publishing, "_read_documents", read_and_save)
    put("a", b'{"n":1}')

    assert documents(redis)["queue:a"].body == b'{"n":2}'
    assert compare_configuration().is_agreed


def test_workers_are_notified_of_a_change_that_another_saver_published(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second saver commits while the first publishes, which finds the newer document, and publishes after it."""
    read = publishing._read_documents  # noqa: SLF001 (between two queries)

    def save_and_read(rows):
        with monkeypatch.context() as patched:
            patched.setattr(publishing, "_read_documents", read)
            patched.setattr(operations, "publish", lambda: None)
            if revision("a") == rows[0].revision:
                put("a", b'{"n":2}')
        return read(rows)

    monkeypatch.setattr(publishing, "_read_documents", save_and_read)
    put("a", b'{"n":1}')
    monkeypatch.undo()
    publishing.publish()

    assert documents(redis)["queue:a"].body == b'{"n":2}'
    assert redis.hget(keys.QUEUE_REVISIONS, "a") == b"%d" % revision("a")


def test_many_savers_at_once_lose_no_change_and_publish_the_last(redis: redis_py.Redis) -> None:
    """Each reads what is stored and adds to it, which only works one after the other."""

    def add() -> None:
        for _ in range(5):
            with configuration_change() as change:
                row = StoredDocument.objects.filter(name="sum").first()
                change.put(DocumentKind.QUEUE, "sum", b"%d" % (int(bytes(row.body)) + 1 if row else 1))
        connection.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert documents(redis)["queue:sum"].body == b"20"
    assert documents(redis)["queue:sum"].revision == revision("sum")


def test_workers_are_notified_when_a_queue_or_one_of_its_vaults_changes(redis: redis_py.Redis) -> None:
    put("key", kind=DocumentKind.VAULT)
    put("a", uses=["vault:key"])
    put("b")
    before = redis.hgetall(keys.QUEUE_REVISIONS)

    with subscribed(redis, keys.CHANGED_CHANNEL) as subscription:
        put("key", b'{"n":2}', kind=DocumentKind.VAULT)

        assert subscription.next() == (keys.CHANGED_CHANNEL, b"a")
        assert subscription.has_none(for_s=0.05)
    after = redis.hgetall(keys.QUEUE_REVISIONS)
    assert int(after[b"a"]) > int(before[b"a"])
    assert after[b"b"] == before[b"b"]


def test_a_change_is_published_without_notifying_workers(redis: redis_py.Redis) -> None:
    put("key", kind=DocumentKind.VAULT)
    put("a", uses=["vault:key"])
    before = (redis.hgetall(keys.QUEUE_REVISIONS), documents(redis)["vault:key"])

    put("key", b"other bytes", kind=DocumentKind.VAULT, notify_workers=False)

    published = documents(redis)["vault:key"]
    assert (redis.hgetall(keys.QUEUE_REVISIONS), published.worker_revision) == (before[0], before[1].worker_revision)
    assert (published.body, published.revision > before[1].revision) == (b"other bytes", True)
    assert get_snapshot(0).find(DocumentKind.VAULT, "key") == published
    assert compare_configuration().is_agreed

    put("key", b"others again", kind=DocumentKind.VAULT)
    assert redis.hgetall(keys.QUEUE_REVISIONS) != before[0]


def test_workers_of_a_deleted_queue_are_notified(redis: redis_py.Redis) -> None:
    put("a")
    before = int(redis.hget(keys.QUEUE_REVISIONS, "a"))

    remove("a")

    assert int(redis.hget(keys.QUEUE_REVISIONS, "a")) > before


def test_nothing_is_stored_if_another_process_has_published_meanwhile(broker) -> None:
    def store(seen: bytes, new: bytes) -> bool:
        documents = {"queue:a": b"a of " + new}
        return broker.run(publish_documents(documents, removed=["queue:b"], seen_revisions=seen, revisions=new))

    redis_of(broker).hset(keys.CONFIG_DOCUMENTS, "queue:b", "b")
    assert [store(b"", b"1"), store(b"", b"2"), store(b"1", b"3"), store(b"1", b"4")] == [True, False, True, False]

    assert redis_of(broker).hgetall(keys.CONFIG_DOCUMENTS) == {b"queue:a": b"a of 3"}
    assert redis_of(broker).get(keys.CONFIG_REVISIONS) == b"3"


def test_revisions_of_queues_only_grow_unless_the_caller_rejects_one(broker) -> None:
    def notify(**revisions: int) -> int:
        return broker.run(publish_queue_revisions(QueueRevision(queue=q, revision=r) for q, r in revisions.items()))

    assert [notify(a=7, b=1), notify(a=6, b=2)] == [2, 1]
    assert redis_of(broker).hgetall(keys.QUEUE_REVISIONS) == {b"a": b"7", b"b": b"2"}

    assert broker.run(publish_queue_revisions([QueueRevision(queue="a", revision=6, overwrites="7")])) == 1
    assert redis_of(broker).hget(keys.QUEUE_REVISIONS, "a") == b"6"


def test_what_was_published_is_read_again_alone_and_all_together(broker) -> None:
    both = {"queue:a": b"\x00 1", "queue:é": b"\x00 2"}
    broker.run(publish_documents(both, removed=[], seen_revisions=b"", revisions=b"r"))
    broker.run(publish_queue_revisions([QueueRevision(queue="a", revision=1)]))

    assert broker.run(read_revisions()) == b"r"
    assert broker.run(read_documents(["queue:é", "queue:none"])) == {"queue:é": b"\x00 2"}
    state = broker.run(read_all())
    assert (state.revisions, state.documents, dict(state.queue_revisions)) == (b"r", both, {"a": "1"})


def test_many_documents_are_published_in_steps_each_of_which_is_complete(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_DOCUMENTS_AT_ONCE", 2)

    with configuration_change() as change:
        for name in "abcde":
            change.put(DocumentKind.QUEUE, name, b"{}")

    assert len(documents(redis)) == len(redis.hgetall(keys.QUEUE_REVISIONS)) == 5
    assert compare_configuration().is_agreed

"""What reaches Redis when configuration is saved, and in which order."""

import contextlib
import threading

import pytest
import redis as redis_py
from django.db import connection, transaction

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.config_documents import (
    PublishedDocument,
    PublishedHead,
    QueueToken,
    publish,
    publish_queue_tokens,
    read_all,
    read_documents,
    read_head,
    read_revisions,
    remove_documents,
)
from runqy.config_sync import operations
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.operations import configuration_change
from runqy.config_sync.reconcile import compare_configuration
from runqy.config_sync.snapshot import get_snapshot
from tests.config_sync.support import documents, put, remove, revision
from tests.support.subscriptions import subscribed

pytestmark = pytest.mark.usefixtures("configuration")


def publish_documents(broker: Broker, *documents: PublishedDocument) -> list[int]:
    """Publish documents without a head, and return what became of each."""
    return broker.run(publish(documents, head=None)).documents


def test_a_saved_document_is_published_after_the_commit(redis: redis_py.Redis) -> None:
    with transaction.atomic():
        put("a", b'{"n":1}')
        assert documents(redis) == {}

    assert documents(redis)["queue:a"].body == b'{"n":1}'
    assert redis.hget(keys.CONFIG_REVISIONS, "queue:a") == str(revision("a")).encode()
    assert redis.get(keys.CONFIG_HEAD)


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
    before = (revision("a"), redis.get(keys.CONFIG_HEAD))

    put("a")

    assert (revision("a"), redis.get(keys.CONFIG_HEAD)) == before


def test_of_two_savers_the_later_commit_is_what_stays_published(redis: redis_py.Redis) -> None:
    """The first saver commits, is held up before it publishes, and the second overtakes it."""
    with configuration_change() as first:
        first.put(DocumentKind.QUEUE, "a", b'{"n":1}')
        first.touched.clear()  # its publication comes late
    late = operations.signed_document(StoredDocument.objects.get(name="a"))
    put("a", b'{"n":2}')

    operations.publish_signed([late])

    assert documents(redis)["queue:a"].body == b'{"n":2}'


def test_a_saver_that_publishes_late_publishes_what_is_stored_by_then(redis: redis_py.Redis) -> None:
    put("a", b'{"n":1}')
    put("a", b'{"n":2}')

    operations.publish(frozenset({"queue:a"}))

    assert documents(redis)["queue:a"].body == b'{"n":2}'


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
    assert (redis.hgetall(keys.QUEUE_REVISIONS), published.effective) == (before[0], before[1].effective)
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


def test_the_publish_script_refuses_what_is_older(broker) -> None:
    new = PublishedDocument(field="queue:a", revision=1_700_000_000_002, content=b"new")
    old = PublishedDocument(field="queue:a", revision=1_700_000_000_001, content=b"old")
    other = PublishedDocument(field="queue:b", revision=1, content=b"other")

    assert publish_documents(broker, new) == [1]
    assert publish_documents(broker, old, other, new) == [-1, 1, 0]
    assert publish_documents(broker, old, other) == [-1, 0]

    assert broker.client.hget(keys.CONFIG_DOCUMENTS, "queue:a") == b"new"
    assert broker.client.get(keys.CONFIG_HEAD) is None


def test_the_publish_script_keeps_a_newer_head_unless_the_caller_saw_and_rejects_it(broker) -> None:
    def publish_head(revision: int, overwrites: bytes = b"") -> int:
        head = PublishedHead(revision=revision, content=b"head %d x" % revision, overwrites=overwrites)
        return broker.run(publish([], head=head)).head

    broker.client.set(keys.CONFIG_HEAD, "0123456789abcdef0123456789abcdef")  # of a release without heads
    assert [publish_head(revision) for revision in (1_700_000_000_002, 1_700_000_000_001, 1_700_000_000_002)] == [
        1,
        -1,
        1,
    ]
    assert broker.client.get(keys.CONFIG_HEAD) == b"head 1700000000002 x"

    assert publish_head(7, overwrites=b"head 1700000000002 x") == 1
    assert broker.client.get(keys.CONFIG_HEAD) == b"head 7 x"


def test_the_publish_script_replaces_a_revision_that_the_caller_rejects(broker) -> None:
    broker.client.hset(keys.CONFIG_REVISIONS, "queue:a", "999")
    mine = PublishedDocument(field="queue:a", revision=5, content=b"mine")

    assert publish_documents(broker, mine) == [-1]
    repair = PublishedDocument(field="queue:a", revision=5, content=b"mine", overwrites="999")
    assert publish_documents(broker, repair) == [1]

    assert broker.client.hgetall(keys.CONFIG_DOCUMENTS) == {b"queue:a": b"mine"}
    assert broker.client.hgetall(keys.CONFIG_REVISIONS) == {b"queue:a": b"5"}


def test_the_announce_script_lets_tokens_only_grow(broker) -> None:
    assert broker.run(publish_queue_tokens([QueueToken(queue="a", token=7), QueueToken(queue="b", token=1)])) == 2
    assert broker.run(publish_queue_tokens([QueueToken(queue="a", token=6), QueueToken(queue="b", token=2)])) == 1
    assert broker.client.hgetall(keys.QUEUE_REVISIONS) == {b"a": b"7", b"b": b"2"}

    assert broker.run(publish_queue_tokens([QueueToken(queue="a", token=6, overwrites="7")])) == 1
    assert broker.client.hget(keys.QUEUE_REVISIONS, "a") == b"6"


def test_what_was_published_is_read_again_alone_and_all_together(broker) -> None:
    both = [PublishedDocument(field=f"queue:{n}", revision=r, content=b"\x00 %d" % r) for n, r in (("a", 1), ("é", 2))]
    broker.run(publish(both, head=PublishedHead(revision=2, content=b"h")))
    broker.run(publish_queue_tokens([QueueToken(queue="a", token=1)]))

    assert broker.run(read_head()) == b"h"
    assert broker.run(read_revisions()) == {"queue:a": "1", "queue:é": "2"}
    assert broker.run(read_documents(["queue:é", "queue:none"])) == {"queue:é": b"\x00 2"}
    standing = broker.run(read_all())
    assert (standing.head, dict(standing.tokens)) == (b"h", {"a": "1"})
    assert standing.documents == {"queue:a": b"\x00 1", "queue:é": b"\x00 2"}


def test_removed_documents_are_gone_with_their_revisions(broker) -> None:
    publish_documents(broker, PublishedDocument(field="queue:a", revision=1, content=b"x"))

    assert broker.run(remove_documents(["queue:a", "queue:b"])) == 1

    assert broker.run(read_all()).documents == {}
    assert broker.run(read_revisions()) == {}

"""Records that wait in Redis come into the database once, in order, with the time at which they happened."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import redis as redis_py
from django.conf import settings
from django.db import DatabaseError, connection

from runqy.audit import operations
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.audit.operations import PendingRecord, move_pending, record, record_in_redis, sign_pending, verify_pending
from runqy.broker import keys
from runqy.broker.streams import audit_stream
from runqy.broker.streams.audit_stream import append_record, count_entries
from runqy.configuration.operations import configuration_change
from runqy.core import signing
from runqy.errors import AuditNotRecorded
from runqy.maintenance.models import FailedRow
from runqy.redis_connection import get_broker
from tests.configuration.support import away

pytestmark = pytest.mark.usefixtures("configuration")

SHOP = Actor(kind=ActorKind.KEY, name="shop", id="7", address="203.0.113.9", request_id="r-1")


def wait(*names: str) -> list[PendingRecord]:
    """Let a record about each queue wait in Redis."""
    for name in names:
        record_in_redis(action="queue.paused", object_kind="queue", object_name=name)
    waiting = [verify_pending(entry.content) for entry in get_broker().run(audit_stream.read_entries(1000))]
    return [pending for pending in waiting if pending and pending.object_name in names]


def direct(name: str) -> AuditRecord:
    """Record a change of the database."""
    return record(action="queue.updated", object_kind="queue", object_name=name)


def names() -> list[str]:
    """Return what the records are about, in the order in which they were stored."""
    return list(AuditRecord.objects.order_by("number").values_list("object_name", flat=True))


def test_a_record_keeps_its_actor_and_the_time_at_which_it_happened() -> None:
    with actor_context(SHOP):
        (pending,) = wait("mail")
    before = datetime.now(UTC)

    move_pending()

    row = AuditRecord.objects.get()
    assert (row.actor_kind, row.actor_name, row.actor_id) == ("key", "shop", "7")
    assert (row.address, row.request_id) == ("203.0.113.9", "r-1")
    assert row.at == pending.at
    assert row.recorded_at is not None
    assert row.recorded_at >= before  # by another clock than `at`, which is Redis's


def test_records_are_moved_in_their_order_however_many(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    monkeypatch.setattr("runqy.maintenance.streams.ENTRIES_AT_ONCE", 3)
    expected = [f"q{i}" for i in range(8)]
    wait(*expected)

    assert move_pending() == 8
    assert names() == expected
    assert redis.xlen(keys.AUDIT_STREAM) == 0


def test_a_record_that_cannot_be_stored_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    monkeypatch.setattr("runqy.maintenance.streams.ENTRIES_AT_ONCE", 2)
    wait("a", "b")
    odd = signing.sign(signing.derive_key(settings.SECRET_KEY, "runqy pending audit"), b'{"of": "a later release"}')
    for _ in range(3):
        get_broker().run(audit_stream.append_record(odd))
    record_in_redis(action="queue.paused", object_kind="queue", object_name="c")

    assert [move_pending(), move_pending()] == [3, 0]

    assert names() == ["a", "b", "c"]
    assert redis.xlen(keys.AUDIT_STREAM) == 3
    assert list(FailedRow.objects.values_list("kind", "times")) == [("audit record", 1)] * 3


def test_a_change_has_the_records_of_its_parts_that_did_not_fail() -> None:
    with configuration_change() as change:
        direct("a")
        with configuration_change():
            direct("b")
        with suppress(AuditNotRecorded), configuration_change():
            direct("undone")
            raise AuditNotRecorded
        with suppress(AuditNotRecorded), change.savepoint():
            direct("undone too")
            raise AuditNotRecorded

    assert names() == ["a", "b"]


def test_a_change_of_the_database_needs_no_redis(settings) -> None:
    wait("waits")
    target = settings.REDIS_TARGET
    settings.REDIS_TARGET = away()
    direct("changed")
    settings.REDIS_TARGET = target

    move_pending()

    assert names() == ["changed", "waits"]


class Killed(BaseException):
    """An exception that ends a process like a kill: no handler catches it."""


def die(_: Sequence[str]) -> None:
    raise Killed


def test_a_process_that_dies_after_the_commit_moves_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    wait("a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(operations, "delete_entries", die)
        with pytest.raises(Killed):
            move_pending()
    assert names() == ["a", "b"]

    wait("c")
    move_pending()

    assert names() == ["a", "b", "c"]


def test_records_that_cannot_be_stored_keep_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DatabaseError

    direct("first")
    wait("a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(AuditRecord.objects, "bulk_create", refuse)
        with pytest.raises(DatabaseError):
            move_pending()
    assert names() == ["first"]

    move_pending()

    assert names() == ["first", "a", "b"]


def test_many_that_move_and_change_at_once_keep_each_once_and_in_order() -> None:
    def work(name: str) -> None:
        try:
            for i in range(5):
                wait(f"{name} {i}")
                move_pending() if i % 2 else direct(f"{name} direct {i}")
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    move_pending()

    found = names()
    assert len(found) == len(set(found)) == 4 * (5 + 3)
    for name in "abcd":
        own = [one for one in found if one.startswith(name)]
        assert [one for one in own if "direct" in one] == [f"{name} direct {i}" for i in (0, 2, 4)]
        assert [one for one in own if "direct" not in one] == [f"{name} {i}" for i in range(5)]


def test_what_this_server_did_not_sign_is_refused_and_counted(redis: redis_py.Redis, settings) -> None:
    (genuine,) = wait("genuine")
    signed = sign_pending(genuine)
    for forged in (b"", b"x", signed.replace(b"genuine", b"forged"), b"0" * 64 + signed[64:]):
        redis.xadd(keys.AUDIT_STREAM, {"content": forged})
    redis.xadd(keys.AUDIT_STREAM, {"other": "field"})

    move_pending()

    refusal = AuditRecord.objects.get(action="audit.entries_refused")
    assert refusal.changes == '{"entries":{"new":5,"old":null}}'
    assert names() == ["genuine", "redis"]


def test_a_refusal_is_recorded_once_although_its_process_died(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.xadd(keys.AUDIT_STREAM, {"content": b"forged"})
    with monkeypatch.context() as patched:
        patched.setattr(operations, "delete_entries", die)
        with pytest.raises(Killed):
            move_pending()

    move_pending()

    assert names() == ["redis"]


def test_a_genuine_entry_that_is_put_back_is_not_recorded_again(redis: redis_py.Redis) -> None:
    (pending,) = wait("mail")
    move_pending()

    redis.xadd(keys.AUDIT_STREAM, {"content": sign_pending(pending)})
    move_pending()

    assert names() == ["mail"]


def test_a_stream_with_too_many_bytes_accepts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_stream, "MAX_BYTES", 200_000)

    with pytest.raises(AuditNotRecorded):
        wait(*("x" * 1000 for _ in range(1000)))

    assert 100 < move_pending() < 250
    assert wait("room again")


def test_a_full_redis_takes_records(redis: redis_py.Redis) -> None:
    redis.config_set("maxmemory", 1)
    try:
        wait("mail")
    finally:
        redis.config_set("maxmemory", 0)

    assert get_broker().run(count_entries()) == 1


def test_the_stream_is_a_key_that_only_the_server_may_write(broker) -> None:
    assert broker.run(append_record(b"content"))
    assert broker.run(count_entries()) == 1
    (entry,) = broker.run(audit_stream.read_entries(5))
    broker.run(audit_stream.delete_entries([entry.id]))

    assert entry.content == b"content"
    assert broker.run(count_entries()) == 0
    assert keys.AUDIT_STREAM.startswith("runqy:config:")

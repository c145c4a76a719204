"""The head in Redis: what confirms the configuration, what is reported, what maintenance repairs."""

from typing import Any

import pytest
import redis as redis_py
from django.conf import settings as django_settings
from structlog.testing import capture_logs

from runqy import clock
from runqy.broker import keys
from runqy.config_sync import snapshot
from runqy.config_sync.documents import Head, InvalidSignature, sign_head, signing_key, verify_head
from runqy.config_sync.head_check import HeadProblem
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.operations import publication_result
from runqy.config_sync.reconcile import compare_configuration, republish_configuration
from runqy.config_sync.snapshot import get_cache, get_snapshot
from tests.config_sync.support import away, put, remove

pytestmark = pytest.mark.usefixtures("configuration")

BARE_DIGEST = b"0123456789abcdef0123456789abcdef"
HEAD = Head(revision=7, fingerprint="0f" * 32)


def key() -> bytes:
    return signing_key(django_settings.SECRET_KEY)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Advance the clock of the process."""
    later_s = clock.monotonic_s() + seconds
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)


def take_database_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise snapshot.DatabaseUnreachable("down")

    monkeypatch.setattr(StoredDocument.objects, "filter", fail)


def test_only_signed_heads_are_accepted() -> None:
    content = sign_head(HEAD, key())

    assert verify_head(content, key()) == HEAD
    assert sign_head(HEAD, key()) != content
    altered = (content.replace(b"head 7", b"head 8"), content[:-1], BARE_DIGEST, b"", b"\xff", b"head 7 x y z")
    for other in (*altered, sign_head(HEAD, b"k" * 32)):
        with pytest.raises(InvalidSignature):
            verify_head(other, key())


def test_the_head_is_that_of_all_documents_deleted_ones_too() -> None:
    first = Head.of([("queue:a", 1), ("queue:b", 2)])

    assert first == Head.of([("queue:b", 2), ("queue:a", 1)])
    assert first.revision == 2
    assert len({head.fingerprint for head in (first, Head.of([("queue:a", 1)]), Head.of([("queue:a", 2)]))}) == 3


def test_redis_confirms_a_configuration_that_its_head_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a")
    remove("a")
    put("b")
    get_snapshot()
    take_database_away(monkeypatch)

    pass_time(monkeypatch, 61)

    assert snapshot.is_confirmed()
    assert get_cache().head_problem is None


def test_without_redis_and_database_the_configuration_is_confirmed_for_a_minute(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    pass_time(monkeypatch, 0)  # it stands still but for these
    put("a")
    get_snapshot()
    take_database_away(monkeypatch)
    settings.REDIS_TARGET = away()

    pass_time(monkeypatch, 59)
    assert snapshot.is_confirmed()
    pass_time(monkeypatch, 3)
    assert not snapshot.is_confirmed()


@pytest.mark.parametrize("content", [None, BARE_DIGEST, b"forged", sign_head(HEAD, b"k" * 32)])
def test_a_head_that_the_server_did_not_sign_confirms_nothing_and_is_repaired(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis, content: bytes | None
) -> None:
    put("a")
    get_snapshot()
    if content is None:
        redis.delete(keys.CONFIG_HEAD)
    else:
        redis.set(keys.CONFIG_HEAD, content)

    pass_time(monkeypatch, 61)
    with monkeypatch.context() as patched:
        take_database_away(patched)
        assert not snapshot.is_confirmed()
    assert get_cache().head_problem in (HeadProblem.MISSING, HeadProblem.UNSIGNED, HeadProblem.REFUSED)
    assert compare_configuration().head_problem is get_cache().head_problem
    republish_configuration()

    get_snapshot(0)
    assert get_cache().head_problem is None
    assert compare_configuration().is_agreed


def test_an_older_head_is_reported_once_and_replaced_by_maintenance(redis: redis_py.Redis) -> None:
    put("a", b"1")
    old = redis.get(keys.CONFIG_HEAD)
    put("a", b"2")
    get_snapshot(0)
    redis.set(keys.CONFIG_HEAD, old)

    with capture_logs() as logs:
        get_snapshot(0)
        get_snapshot(0)
        problem = get_cache().head_problem
        republished = republish_configuration()

    assert problem is HeadProblem.PUT_BACK
    assert republished.head_problem is HeadProblem.PUT_BACK
    refused = [log["reason"] for log in logs if log["event"] == "published_head_refused"]
    assert refused == ["put back", "put back"]  # by the process, and by maintenance
    assert redis.get(keys.CONFIG_HEAD) != old


def test_a_head_that_is_far_ahead_and_not_signed_does_not_stop_maintenance(redis: redis_py.Redis) -> None:
    put("a")
    redis.set(keys.CONFIG_HEAD, "head 9007199254740991 00 00 00")

    republish_configuration()

    assert compare_configuration().is_agreed


def test_a_change_is_reported_as_published_only_if_it_is(settings: Any) -> None:
    with publication_result() as published:
        put("a")
    settings.REDIS_TARGET = away()
    with publication_result() as unpublished:
        put("b")

    assert (published.is_published, unpublished.is_published) == (True, False)


def test_a_saver_whose_head_was_overtaken_publishes_the_latest(redis: redis_py.Redis) -> None:
    put("a", b"1")
    newer = Head(revision=StoredDocument.objects.get().revision + 1, fingerprint="00" * 32)
    redis.set(keys.CONFIG_HEAD, sign_head(newer, key()))

    put("b", b"2")

    assert compare_configuration().is_agreed

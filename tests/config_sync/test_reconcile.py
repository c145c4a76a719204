"""How Redis and the database come to agree again."""

import pytest
import redis as redis_py
from django.core.management import CommandError, call_command
from structlog.testing import capture_logs

from runqy.broker import keys
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.models import Revision, StoredDocument
from runqy.config_sync.reconcile import compare_configuration, republish_configuration
from runqy.errors import BrokerUnavailable
from tests.config_sync.support import away, documents, plant, put, remove, revision

pytestmark = pytest.mark.usefixtures("configuration")


def published(redis: redis_py.Redis) -> dict[str, bytes | None]:
    return {key: document.body for key, document in documents(redis).items()}


def test_saving_while_redis_is_away_keeps_the_row_and_maintenance_publishes_later(settings, redis) -> None:
    here, settings.REDIS_TARGET = settings.REDIS_TARGET, away()
    with capture_logs() as logs:
        put("a", b"1")
    with pytest.raises(BrokerUnavailable):
        republish_configuration()
    settings.REDIS_TARGET = here

    assert logs[-1]["event"] == "saved_but_not_published"
    assert republish_configuration().outdated == ["queue:a"]
    assert published(redis) == {"queue:a": b"1"}
    assert compare_configuration().is_agreed


def test_after_flushall_everything_is_published_again_deletions_too(redis) -> None:
    put("key", kind=DocumentKind.VAULT)
    put("a", b"1", uses=["vault:key"])
    put("b")
    remove("b")
    before, tokens = documents(redis), redis.hgetall(keys.QUEUE_REVISIONS)
    redis.flushall()

    assert not republish_configuration().is_agreed

    assert documents(redis) == before
    assert redis.hgetall(keys.QUEUE_REVISIONS) == tokens
    assert redis.get(keys.CONFIG_HEAD)
    assert compare_configuration().is_agreed


def test_nothing_is_written_while_both_agree(redis) -> None:
    put("a", b"1")
    digest = redis.get(keys.CONFIG_HEAD)

    assert republish_configuration().is_agreed

    assert redis.get(keys.CONFIG_HEAD) == digest


def test_a_missing_digest_is_set_again(redis) -> None:
    put("a")
    redis.delete(keys.CONFIG_HEAD)

    republish_configuration()

    assert redis.get(keys.CONFIG_HEAD)


@pytest.mark.parametrize("claimed", [0, 1, 10**15])
def test_an_altered_document_is_reported_and_replaced(redis, claimed: int) -> None:
    put("a", b"1")
    plant(redis, "queue:a", redis.hget(keys.CONFIG_DOCUMENTS, "queue:a") + b"0", claimed or revision("a"))

    with capture_logs() as logs:
        assert republish_configuration().refused == ["queue:a"]

    assert "published_documents_refused" in [log["event"] for log in logs if log["log_level"] == "error"]
    assert published(redis) == {"queue:a": b"1"}
    assert compare_configuration().is_agreed


def test_an_older_document_that_was_put_back_is_replaced(redis) -> None:
    put("a", b"1")
    old, old_revision = redis.hget(keys.CONFIG_DOCUMENTS, "queue:a"), revision("a")
    put("a", b"2")
    plant(redis, "queue:a", old, old_revision)

    republish_configuration()

    assert published(redis) == {"queue:a": b"2"}


def test_a_raised_token_is_corrected(redis) -> None:
    put("a", b"1")
    good = redis.hget(keys.QUEUE_REVISIONS, "a")
    redis.hset(keys.QUEUE_REVISIONS, "a", 10**15)

    republish_configuration()

    assert redis.hget(keys.QUEUE_REVISIONS, "a") == good


def test_what_only_redis_has_is_reported_and_left(redis) -> None:
    plant(redis, "queue:planted", b"1 5 00 {}", 5)

    comparison = republish_configuration()

    assert (comparison.unknown, comparison.refused) == (["queue:planted"], ["queue:planted"])
    assert redis.hexists(keys.CONFIG_DOCUMENTS, "queue:planted")


def test_a_restored_database_is_only_reported(redis, capsys) -> None:
    put("a", b"1")
    rows = list(StoredDocument.objects.values())
    counter = Revision.objects.get().value
    put("a", b"2")
    put("b", b"3")
    StoredDocument.objects.all().delete()
    StoredDocument.objects.bulk_create(StoredDocument(**row) for row in rows)
    Revision.objects.update(value=counter)

    comparison = republish_configuration()
    assert (comparison.ahead, comparison.unknown) == (["queue:a"], ["queue:b"])
    assert published(redis) == {"queue:a": b"2", "queue:b": b"3"}
    with pytest.raises(CommandError, match="--replace"):
        call_command("publish_configuration")

    call_command("publish_configuration", "--replace")

    assert published(redis) == {"queue:a": b"1", "queue:b": None}
    assert "ahead, set back: queue:a\nunknown to the database, removed: queue:b" in capsys.readouterr().out
    assert compare_configuration().is_agreed


def test_replacing_removes_unsigned_documents(redis) -> None:
    put("a", b"1")
    plant(redis, "queue:planted", b"1 5 00 {}", 5)

    call_command("publish_configuration", "--replace")

    assert published(redis) == {"queue:a": b"1"}
    assert compare_configuration().is_agreed


def test_a_database_that_starts_afresh_is_ahead_of_what_an_older_one_published(redis) -> None:
    put("a", b"1")
    StoredDocument.objects.all().delete()
    Revision.objects.all().delete()

    put("a", b"2")

    assert published(redis) == {"queue:a": b"2"}

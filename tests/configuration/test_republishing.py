"""How Redis and the database come to agree again."""

import pytest
import redis as redis_py
from django.core.management import CommandError, call_command
from structlog.testing import capture_logs

from runqy.broker import configuration_documents, keys
from runqy.configuration import publishing
from runqy.configuration.documents import DocumentKind
from runqy.configuration.models import Revision, StoredDocument
from runqy.configuration.publishing import PublicationProblem, compare_configuration, republish_configuration
from runqy.errors import BrokerUnavailable
from tests.configuration.support import away, documents, put, remove

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

    assert logs[-1]["event"] == "configuration_not_published"
    assert republish_configuration().outdated == ["queue:a"]
    assert published(redis) == {"queue:a": b"1"}
    assert compare_configuration().is_agreed


def test_after_flushall_everything_is_published_again_deletions_too(redis) -> None:
    put("key", kind=DocumentKind.VAULT)
    put("a", b"1", uses=["vault:key"])
    put("b")
    remove("b")
    before, of_queues = documents(redis), redis.hgetall(keys.QUEUE_REVISIONS)
    redis.flushall()

    assert not republish_configuration().is_agreed

    assert documents(redis) == before
    assert redis.hgetall(keys.QUEUE_REVISIONS) == of_queues
    assert redis.get(keys.CONFIG_REVISIONS)
    assert compare_configuration().is_agreed


def test_nothing_is_written_while_both_agree(redis) -> None:
    put("a", b"1")
    before = redis.get(keys.CONFIG_REVISIONS)

    assert republish_configuration().is_agreed

    assert redis.get(keys.CONFIG_REVISIONS) == before


def test_a_missing_list_of_revisions_is_stored_again(redis) -> None:
    put("a")
    redis.delete(keys.CONFIG_REVISIONS)

    republish_configuration()

    assert redis.get(keys.CONFIG_REVISIONS)


def test_an_altered_document_is_reported_and_replaced(redis) -> None:
    put("a", b"1")
    redis.hset(keys.CONFIG_DOCUMENTS, "queue:a", redis.hget(keys.CONFIG_DOCUMENTS, "queue:a") + b"0")

    with capture_logs() as logs:
        assert republish_configuration().altered == ["queue:a"]

    assert "published_configuration_refused" in [log["event"] for log in logs if log["log_level"] == "error"]
    assert published(redis) == {"queue:a": b"1"}
    assert compare_configuration().is_agreed


def test_an_older_document_that_was_put_back_is_replaced(redis) -> None:
    put("a", b"1")
    old = redis.hget(keys.CONFIG_DOCUMENTS, "queue:a")
    put("a", b"2")
    redis.hset(keys.CONFIG_DOCUMENTS, "queue:a", old)

    assert republish_configuration().altered == ["queue:a"]

    assert published(redis) == {"queue:a": b"2"}


@pytest.mark.parametrize("content", [b"forged", b"0123456789abcdef" * 4 + b' {"queue:a":9007199254740991}', b"\xff"])
def test_a_list_of_revisions_that_the_server_did_not_sign_is_reported_and_replaced(redis, content: bytes) -> None:
    put("a")
    redis.set(keys.CONFIG_REVISIONS, content)

    with capture_logs() as logs:
        assert republish_configuration().problem is PublicationProblem.ALTERED

    assert "published_configuration_refused" in [log["event"] for log in logs if log["log_level"] == "error"]
    assert compare_configuration().is_agreed


def test_an_older_list_of_revisions_that_was_put_back_is_reported_and_replaced(redis) -> None:
    put("a", b"1")
    old = redis.get(keys.CONFIG_REVISIONS)
    put("a", b"2")
    redis.set(keys.CONFIG_REVISIONS, old)

    with capture_logs() as logs:
        assert republish_configuration().problem is PublicationProblem.OUTDATED

    assert {"event": "configuration_republished", "documents": ["queue:a"], "log_level": "info"} in logs
    assert compare_configuration().is_agreed


def test_a_raised_revision_of_a_queue_is_corrected(redis) -> None:
    put("a", b"1")
    good = redis.hget(keys.QUEUE_REVISIONS, "a")
    redis.hset(keys.QUEUE_REVISIONS, "a", 10**15)

    republish_configuration()

    assert redis.hget(keys.QUEUE_REVISIONS, "a") == good


def test_a_planted_document_is_reported_and_removed(redis) -> None:
    redis.hset(keys.CONFIG_DOCUMENTS, "queue:planted", b"5 5 00 {}")

    assert republish_configuration().altered == ["queue:planted"]

    assert not redis.hexists(keys.CONFIG_DOCUMENTS, "queue:planted")
    assert compare_configuration().is_agreed


def test_a_restored_database_is_only_reported(redis, capsys) -> None:
    put("a", b"1")
    rows = list(StoredDocument.objects.values())
    counter = Revision.objects.get().value
    put("a", b"2")
    put("b", b"3")
    StoredDocument.objects.all().delete()
    StoredDocument.objects.bulk_create(StoredDocument(**row) for row in rows)
    Revision.objects.update(value=counter)

    assert republish_configuration().ahead == ["queue:a", "queue:b"]
    assert published(redis) == {"queue:a": b"2", "queue:b": b"3"}
    with pytest.raises(CommandError, match="--replace"):
        call_command("publish_configuration")

    call_command("publish_configuration", "--replace")

    assert published(redis) == {"queue:a": b"1", "queue:b": None}
    assert "ahead, set back: queue:a, queue:b" in capsys.readouterr().out
    assert compare_configuration().is_agreed


def test_a_database_that_starts_afresh_is_ahead_of_what_an_older_one_published(redis) -> None:
    put("a", b"1")
    StoredDocument.objects.all().delete()
    Revision.objects.all().delete()

    put("a", b"2")

    assert published(redis) == {"queue:a": b"2"}


def test_large_documents_are_published_one_by_one(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    for name in ("a", "b", "c"):
        put(name)
    redis.flushall()
    monkeypatch.setattr(publishing, "BATCH_MAX_BYTES", 1)
    sizes, publish = [], configuration_documents.publish
    monkeypatch.setattr(
        configuration_documents,
        "publish",
        lambda signed, **options: sizes.append(len(signed)) or publish(signed, **options),
    )

    republish_configuration()

    assert sizes == [1, 1, 1]
    assert compare_configuration().is_agreed

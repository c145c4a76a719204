"""A rollout requested without the database is published as usual, and stored when the database is back."""

from collections.abc import Iterator

import pytest
import redis as redis_py
from django.db import OperationalError

from queues import operations
from queues.deletion import delete_queue
from queues.models import QueueSource
from queues.operations import redeploy_queue, republish_configuration, save_queue
from queues.queries import find_rollout, get_fresh_catalog
from runqy.broker import keys
from runqy.config_sync import snapshot
from runqy.config_sync.models import StoredDocument
from runqy.config_sync.reconcile import compare_configuration
from runqy.errors import ConfigurationUnconfirmed
from runqy.redis_connection import get_broker
from tests.queues.samples import spec
from tests.support.audit import audit_records

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture(autouse=True)
def mail(configuration: None) -> None:
    """Create two published queues."""
    for name in ("mail", "sms"):
        save_queue(spec=spec(name), source=QueueSource.API)
    snapshot.refresh()


@pytest.fixture
def away(mail: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the database away from redeployments."""
    monkeypatch.setattr(operations, "is_database_responding", lambda: False)
    return monkeypatch.undo


def token(redis: redis_py.Redis, queue: str = "mail") -> str:
    """Return what workers of a queue compare."""
    return (redis.hget(keys.QUEUE_REVISIONS, queue) or b"").decode()


def rows() -> list[tuple[str, int]]:
    """Return what the database holds of rollouts."""
    return list(StoredDocument.objects.filter(kind="rollout").order_by("name").values_list("name", "revision"))


def test_it_is_published_and_confirmed_everywhere_without_a_row(away: None, redis: redis_py.Redis) -> None:
    before = token(redis)

    redeploy_queue(name="mail")
    redeploy_queue(name="sms")

    assert rows() == []
    snapshot.forget()
    snapshot.refresh()
    assert find_rollout("mail") == token(redis)
    assert get_fresh_catalog().queue_revision("mail") == token(redis)
    assert int(token(redis)) > int(before)
    assert snapshot.get_cache().head_problem is None
    assert snapshot.get_cache().confirmed_at > float("-inf")


def test_it_is_stored_once_the_database_is_back_and_means_the_same(away, redis: redis_py.Redis) -> None:
    redeploy_queue(name="mail")
    requested = token(redis)
    pending = compare_configuration()
    assert ([d.field for d in pending.rollouts], pending.is_ahead, pending.head_problem) == (
        ["rollout:mail"],
        False,
        None,
    )

    assert republish_configuration().is_agreed

    assert [name for name, _ in rows()] == ["mail"]
    assert find_rollout("mail") == token(redis) == requested
    assert compare_configuration().is_agreed
    away()
    redeploy_queue(name="mail")
    assert int(find_rollout("mail") or 0) > int(requested)
    assert compare_configuration().is_agreed


def test_one_after_another_is_stored_as_the_last(away, redis: redis_py.Redis) -> None:
    redeploy_queue(name="mail")
    republish_configuration()
    redeploy_queue(name="mail")
    last = token(redis)

    republish_configuration()

    assert find_rollout("mail") == token(redis) == last
    assert compare_configuration().is_agreed


def test_a_save_in_between_keeps_it(away, redis: redis_py.Redis) -> None:
    redeploy_queue(name="mail")
    requested = token(redis)

    save_queue(spec=spec("other"), source=QueueSource.API)
    republish_configuration()

    assert find_rollout("mail") == requested
    assert compare_configuration().is_agreed


def test_one_of_a_queue_that_is_removed_in_between_is_forgotten(away, redis: redis_py.Redis) -> None:
    redeploy_queue(name="mail")
    delete_queue(get_broker(), name="mail", force=True)

    republish_configuration()

    snapshot.refresh()
    assert find_rollout("mail") is None
    assert compare_configuration().is_agreed


def test_it_is_refused_where_redis_holds_another_configuration(away, redis: redis_py.Redis) -> None:
    redis.set(keys.CONFIG_HEAD, b"head 1 forged 0 0")
    before = redis.hgetall(keys.CONFIG_REVISIONS)

    with pytest.raises(ConfigurationUnconfirmed):
        redeploy_queue(name="mail")

    assert redis.hgetall(keys.CONFIG_REVISIONS) == before


def test_a_database_that_fails_during_a_query_is_not_required(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    def fail() -> None:
        raise OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(operations, "configuration_change", fail)
        redeploy_queue(name="mail")

    assert find_rollout("mail") == token(redis)
    assert audit_records().get(action="queue.redeployed").object_name == "mail"


def test_the_record_names_the_rollout(away, redis: redis_py.Redis) -> None:
    redeploy_queue(name="mail")

    assert (
        audit_records().get(action="queue.redeployed").changes == f'{{"rollout":{{"new":{token(redis)},"old":null}}}}'
    )

"""Enabling, disabling, pausing and unpausing whole queues."""

import json

import pytest
import redis as redis_py

from queues.models import Queue, QueueSource
from queues.operations import disable_queue, enable_queue, publish_again, save_queue
from queues.pausing import pause_queue, pause_whole_queue, unpause_whole_queue
from queues.queries import get_fresh_catalog
from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.errors import BrokerUnavailable, QueueNotFound
from runqy.redis_connection import get_broker
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.queues.stored import save_from_file
from tests.support.audit import audit_records
from tests.support.links import count_round_trips

pytestmark = pytest.mark.usefixtures("configuration")


def recorded() -> list[tuple[str, str]]:
    """Return the recorded actions with their objects."""
    return list(audit_records().order_by("number").values_list("action", "object_name"))


def test_disabling_a_queue_changes_nothing_else() -> None:
    save_from_file(spec("mail", "high:9"), "/q/mail.yaml")

    assert disable_queue(name="mail")

    found = get_fresh_catalog().get_queue("mail")
    assert (found.is_enabled, [sub.name for sub in found.sub_queues]) == (False, ["high"])
    row = Queue.objects.get()
    assert (row.source, row.file_path) == (QueueSource.FILE, "/q/mail.yaml")
    assert json.loads(audit_records().latest("number").changes) == {"is_enabled": {"old": True, "new": False}}


def test_enabling_an_enabled_queue_changes_and_records_nothing() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.ADMIN)

    assert not enable_queue(name="mail")

    assert recorded() == [("queue.created", "mail")]


def test_a_disabled_queue_is_enabled_again() -> None:
    save_queue(spec=spec("mail", is_enabled=False), source=QueueSource.ADMIN)

    assert enable_queue(name="mail")

    assert get_fresh_catalog().get_queue("mail").is_enabled


@pytest.mark.parametrize("switch", [enable_queue, disable_queue, publish_again])
def test_an_unknown_queue_cannot_be_enabled_or_paused(switch) -> None:
    with pytest.raises(QueueNotFound):
        switch(name="mail")


def test_a_queue_is_paused_with_all_its_sub_queues(redis: redis_py.Redis) -> None:
    save_queue(spec=spec("mail", "high:9", "low:1"), source=QueueSource.ADMIN)
    broker = get_broker()
    pause_queue(broker, name="mail_low")

    assert pause_whole_queue(broker, name="mail") == ["mail_high"]

    assert [redis.exists(QueueKeys(name).paused) for name in ("mail_high", "mail_low")] == [1, 1]
    assert recorded()[1:] == [("queue.paused", "mail_low"), ("queue.paused", "mail_high")]


def test_the_round_trips_of_pausing_do_not_depend_on_the_number_of_sub_queues(
    redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_queue(spec=spec("mail", "high:9", "mid:5", "low:1"), source=QueueSource.ADMIN)
    broker = get_broker()
    made = count_round_trips(monkeypatch, broker)

    assert pause_whole_queue(broker, name="mail") == ["mail_high", "mail_mid", "mail_low"]

    assert len(made) == 3  # what is paused already, the audit records, the pauses
    assert len(recorded()) == 4


def test_a_queue_is_unpaused_with_all_its_sub_queues(redis: redis_py.Redis) -> None:
    save_queue(spec=spec("mail", "high:9", "low:1"), source=QueueSource.ADMIN)
    broker = get_broker()
    pause_queue(broker, name="mail_low")

    assert unpause_whole_queue(broker, name="mail") == ["mail_low"]

    assert not redis.exists(QueueKeys("mail_low").paused)
    assert recorded()[-1] == ("queue.unpaused", "mail_low")


def test_publishing_again_restores_documents_that_redis_lost(redis: redis_py.Redis) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.ADMIN)
    redis.delete(keys.CONFIG_DOCUMENTS)

    publish_again(name="mail")

    assert redis.hexists(keys.CONFIG_DOCUMENTS, "queue:mail")
    assert recorded()[-1] == ("queue.republished", "mail")


def test_publishing_an_up_to_date_queue_records_nothing() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.ADMIN)

    assert publish_again(name="mail").is_agreed

    assert recorded() == [("queue.created", "mail")]


def test_publishing_fails_while_redis_is_unavailable(settings) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.ADMIN)
    settings.REDIS_TARGET = away()

    with pytest.raises(BrokerUnavailable):
        publish_again(name="mail")

"""Saving of queues: validation, storage and publication."""

import threading
from dataclasses import replace

import pytest
import redis as redis_py
from django.db import connection

from queues.definitions import Deployment, FieldType, LimitOverrides, Limits, PayloadField, QueueOrder
from queues.models import Queue, QueueSource
from queues.operations import delete_definition, republish_configuration, save_queue
from queues.queries import get_fresh_catalog
from runqy.broker import keys
from runqy.configuration import snapshot
from runqy.configuration.operations import configuration_change
from runqy.errors import QueueAlreadyExists, QueueInvalid, QueueNameTaken, QueueNotFound
from tests.configuration.support import away
from tests.queues.samples import spec
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

RICH = spec(
    "inference",
    "high:10",
    "low:3",
    order=QueueOrder.STRICT,
    deployment=Deployment(
        git_url="https://h/r.git",
        startup_cmd="python main.py",
        env_vars={"A": "1"},
        vaults=("b", "a"),
        git_token="vault://c/PAT",
        redis_storage=False,
    ),
    limits=LimitOverrides(max_retry=0, active_timeout_s=9),
    input=(PayloadField(name="x", type=(FieldType.INT, FieldType.STRING), default_json="7", description="what"),),
)


def save(one, **options) -> Queue:
    """Save a specification as the admin does."""
    return save_queue(spec=one, source=QueueSource.ADMIN, **options)


def test_a_saved_queue_is_found_unchanged() -> None:
    save(RICH)

    assert Queue.objects.get().as_spec() == RICH
    found = get_fresh_catalog().resolve("inference.low")
    assert (found.redis_queue, found.priority, found.queue.order) == ("inference_low", 3, "strict")
    assert found.queue.deployment == RICH.deployment
    assert found.queue.input == RICH.input
    assert found.queue.limits == Limits(max_retry=0, active_timeout_s=9)


def test_a_change_is_visible_without_the_database(django_assert_num_queries) -> None:
    save(spec("mail"))
    get_fresh_catalog()
    save(replace(spec("mail"), priority=9))

    with django_assert_num_queries(0):
        assert get_fresh_catalog().resolve("mail").priority == 9


def test_limits_that_a_queue_does_not_set_follow_the_settings(settings) -> None:
    save(spec("mail", limits=LimitOverrides(ttl_completed_s=60)))
    settings.RUNQY_DEFAULT_MAX_RETRY, settings.RUNQY_DEFAULT_TTL_COMPLETED_S = 8, 7200

    limits = get_fresh_catalog().resolve("mail").queue.limits

    assert (limits.max_retry, limits.ttl_completed_s) == (8, 60)


def test_the_separator_is_a_setting(settings) -> None:
    save(RICH)
    assert get_fresh_catalog().redis_queues() == ["inference_high", "inference_low"]

    settings.RUNQY_SUBQUEUE_SEPARATOR = "."

    assert get_fresh_catalog().redis_queues() == ["inference.high", "inference.low"]


def test_sub_queues_are_replaced_in_their_order() -> None:
    save(RICH)

    save(spec("inference", "low:4", "new:1", "high:2"))

    assert [(sub.name, sub.priority) for sub in Queue.objects.get().sub_queues.all()] == [
        ("low", 4),
        ("new", 1),
        ("high", 2),
    ]


@pytest.mark.parametrize("other", [spec("mail_default"), spec("ma.il"), spec("m", "ail:1", "default:1")])
def test_names_of_another_queue_are_rejected(other) -> None:
    save(spec("mail"))
    save(spec("ma", "il:1"))
    save(spec("m_default"))

    with pytest.raises(QueueNameTaken):
        save(other)
    save(replace(spec("mail"), priority=7))


def test_an_invalid_queue_is_rejected_with_all_errors() -> None:
    with pytest.raises(QueueInvalid) as caught:
        save(spec("a b", deployment=Deployment(git_url="ext::x", startup_cmd="")))

    assert [error.split(":")[0] for error in caught.value.errors] == [
        "name",
        "deployment.git_url",
        "deployment.startup_cmd",
    ]
    assert not Queue.objects.exists()


def test_a_new_queue_must_be_new() -> None:
    save(spec("mail"), is_new=True)

    with pytest.raises(QueueAlreadyExists):
        save(spec("mail"), is_new=True)


def test_a_deleted_queue_is_gone() -> None:
    save(spec("mail"))
    get_fresh_catalog()

    with configuration_change() as change:
        delete_definition(change, "mail")

    with pytest.raises(QueueNotFound):
        get_fresh_catalog().resolve("mail")
    with pytest.raises(QueueNotFound), configuration_change() as change:
        delete_definition(change, "mail")


def test_a_disabled_queue_is_published_as_disabled() -> None:
    save(replace(spec("mail"), is_enabled=False))

    assert not get_fresh_catalog().resolve("mail").queue.is_enabled


def test_the_token_of_a_queue_changes_only_with_the_queue_and_its_vaults(redis: redis_py.Redis) -> None:
    for name in ("a", "b", "c", "unused"):
        create_vault(name=name)
    save(RICH)
    save(spec("mail"))

    def tokens() -> tuple[str, str]:
        catalog = get_fresh_catalog()
        seen = redis.hgetall(keys.QUEUE_REVISIONS)
        assert catalog.queue_revision("inference") == seen[b"inference"].decode()
        assert catalog.queue_revision("mail") == seen[b"mail"].decode()
        return catalog.queue_revision("inference"), catalog.queue_revision("mail")

    inference, mail = tokens()
    set_entry(vault="unused", key="A", value="1")
    assert tokens() == (inference, mail)
    set_entry(vault="a", key="A", value="1")
    after_vault = tokens()
    assert after_vault[0] != inference
    set_entry(vault="c", key="PAT", value="1")
    after_token = tokens()
    assert after_token[0] != after_vault[0]
    assert after_token[1] == mail


def test_the_token_changes_when_a_queue_stops_using_a_vault(redis: redis_py.Redis) -> None:
    save(RICH)
    create_vault(name="a")
    before = get_fresh_catalog().queue_revision("inference")

    save(replace(RICH, deployment=replace(RICH.deployment, vaults=("b",))))

    assert get_fresh_catalog().queue_revision("inference") not in ("", before)
    assert redis.hget(keys.QUEUE_REVISIONS, "inference").decode() == get_fresh_catalog().queue_revision("inference")


def test_a_change_saved_without_redis_is_published_by_maintenance(settings) -> None:
    here, settings.REDIS_TARGET = settings.REDIS_TARGET, away()
    save(spec("mail"))
    settings.REDIS_TARGET = here

    republish_configuration()

    snapshot.forget()
    assert get_fresh_catalog().resolve("mail").redis_queue == "mail"


def test_one_of_two_concurrent_saves_with_colliding_names_is_rejected() -> None:
    outcomes = []
    both_ready = threading.Barrier(2)

    def try_to_save(one) -> None:
        both_ready.wait(30)
        try:
            save(one)
            outcomes.append("saved")
        except QueueNameTaken:
            outcomes.append("refused")
        connection.close()

    threads = [threading.Thread(target=try_to_save, args=[one]) for one in (spec("a_b"), spec("a", "b:1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["refused", "saved"]
    assert len(get_fresh_catalog().definitions) == 1


def test_a_sub_queue_and_its_queue_have_128_characters_together() -> None:
    save_queue(spec=spec("q" * 120, f"{'s' * 7}:1"), source=QueueSource.API)

    with pytest.raises(QueueInvalid, match="more than 128 characters"):
        save_queue(spec=spec("r" * 120, f"{'s' * 8}:1"), source=QueueSource.API)

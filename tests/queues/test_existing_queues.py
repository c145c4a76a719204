"""Redis queues that exist under another name of a queue: they are published, named and served."""

import pytest

from queues.duties import ExistingQueuePublisher
from queues.existing_queues import find_undefined_queues, publish_existing_queues
from queues.models import QueueSource
from queues.operations import delete_definition, save_queue
from queues.queries import get_catalog, get_fresh_catalog
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.configuration import snapshot
from runqy.configuration.models import StoredDocument
from runqy.configuration.operations import configuration_change
from runqy.configuration.publishing import compare_configuration
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.tasks import put
from workers.operations import register_worker

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def broker(single_broker: Broker) -> Broker:
    return single_broker


def save(name: str, *sub_queues: str) -> None:
    save_queue(spec=spec(name, *sub_queues), source=QueueSource.API)


def published_revision(broker: Broker, queue: str) -> bytes | None:
    return redis_of(broker).hget(keys.QUEUE_REVISIONS, queue)


def test_a_redis_queue_of_the_go_system_is_served_beside_the_defined_one(broker: Broker) -> None:
    save("mail")
    put(broker, "t", queue="mail.default")

    ExistingQueuePublisher().run_tick(broker)

    assert get_catalog().resolve("mail.default").redis_queue == "mail.default"
    assert get_catalog().resolve("mail").redis_queue == "mail"
    registration = register_worker(queue="mail")
    assert registration.redis_queues == (("mail", 5), ("mail.default", 5))
    assert registration.revision.encode() == published_revision(broker, "mail")
    assert compare_configuration().is_agreed


def test_other_processes_know_existing_queues_without_a_lookup(broker: Broker, django_assert_num_queries) -> None:
    save("mail")
    put(broker, "t", queue="mail.default")
    publish_existing_queues(broker)
    snapshot.forget()
    get_fresh_catalog()
    redis_of(broker).delete(keys.QUEUES)

    with django_assert_num_queries(0):
        assert get_catalog().resolve("mail.default").redis_queue == "mail.default"


def test_workers_register_again_when_a_redis_queue_appears_but_not_when_it_vanishes(broker: Broker) -> None:
    save("mail")
    before = published_revision(broker, "mail")
    put(broker, "t", queue="mail.default")
    publish_existing_queues(broker)
    during = published_revision(broker, "mail")
    redis_of(broker).srem(keys.QUEUES, "mail.default")

    publish_existing_queues(broker)

    assert before != during == published_revision(broker, "mail")
    assert get_catalog().redis_queues() == ["mail"]
    assert register_worker(queue="mail").revision.encode() == during


def test_nothing_is_published_while_nothing_changes(broker: Broker, django_assert_num_queries) -> None:
    save("mail")
    put(broker, "t", queue="mail")
    put(broker, "u", queue="foreign")
    get_fresh_catalog()

    with django_assert_num_queries(1):  # that of a process that does not poll
        publish_existing_queues(broker)

    assert not StoredDocument.objects.filter(kind="redis_queues").exists()


def test_a_deleted_queue_leaves_no_document_of_its_redis_queues(broker: Broker) -> None:
    save("mail")
    put(broker, "t", queue="mail.default")
    publish_existing_queues(broker)

    with configuration_change() as change:
        delete_definition(change, "mail")

    assert StoredDocument.objects.get(kind="redis_queues").body is None
    assert [found.queue for found in find_undefined_queues(broker)] == ["mail.default"]


def test_only_redis_queues_that_no_definition_names_and_that_hold_tasks_are_undefined(broker: Broker) -> None:
    save("mail")
    put(broker, "t", queue="mail")
    put(broker, "u", queue="foreign")
    redis_of(broker).sadd(keys.QUEUES, "empty", "{bad}")

    (found,) = find_undefined_queues(broker)

    assert (found.queue, found.waiting) == ("foreign", 1)

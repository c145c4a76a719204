"""What a queue's tasks are told to, by the endpoints that are published."""

import msgspec
import pytest

from queues.definitions import ALL_QUEUES, PublishedEndpoint, QueueNotify
from queues.queries import get_fresh_catalog
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import configuration_change
from tests.queues.samples import spec
from tests.queues.stored import store_queues

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]


def publish(name: str, endpoint: PublishedEndpoint) -> None:
    with configuration_change() as change:
        change.put(DocumentKind.ENDPOINT, name, msgspec.json.encode(endpoint))


def notify(queue: str) -> QueueNotify:
    return get_fresh_catalog(max_age_s=0).get_queue(queue).notify


def test_an_endpoint_covers_its_queues_until_it_is_removed() -> None:
    store_queues(spec("mail"))
    store_queues(spec("video"))
    publish("one", PublishedEndpoint(since={"mail": 3}, include_result=True))

    assert notify("mail") == QueueNotify(endpoints=True, include_result=True, revision=3)
    assert notify("video") == QueueNotify()

    with configuration_change() as change:
        change.remove(DocumentKind.ENDPOINT, "one")

    assert notify("mail") == QueueNotify()


def test_an_endpoint_for_all_queues_covers_one_that_is_made_later() -> None:
    publish("all", PublishedEndpoint(since={ALL_QUEUES: 5}))
    publish("one", PublishedEndpoint(since={"mail": 3}, include_result=True))

    store_queues(spec("mail"))

    assert notify("mail") == QueueNotify(endpoints=True, include_result=True, revision=5)

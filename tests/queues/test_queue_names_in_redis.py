"""Names of Redis queues that other programs wrote and no queue can have."""

from contextlib import suppress

import pytest
from django.test import Client

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import read_queue_names
from runqy.broker.tasks.reader import find_task
from runqy.errors import TaskNotFound
from runqy.server.metrics import exposition
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.redis_client import redis_of
from tests.support.tasks import put

NAMES = [b"\xff\xfe", b"x" * 256, b"a\x00b", b"", b"a{b", b"a}b"]


def fill(broker: Broker) -> None:
    """Put a task into each of these queues, with its index entry."""
    for number, name in enumerate(NAMES):
        task_id = b"id%d" % number
        redis_of(broker).sadd(keys.QUEUES, name)
        redis_of(broker).hset(keys.lookup(task_id.decode()), "queue", name)
        redis_of(broker).hset(b"asynq:{%s}:t:%s" % (name, task_id), mapping={"msg": b"m", "state": b"pending"})
        redis_of(broker).lpush(b"asynq:{%s}:pending" % name, task_id)


def test_they_are_left_out(broker: Broker) -> None:
    fill(broker)
    put(broker, "t", queue="mail")

    assert broker.run(read_queue_names()) == ["mail"]


def test_a_task_whose_index_entry_has_such_a_name_can_be_read(broker: Broker) -> None:
    fill(broker)

    for number in range(len(NAMES)):
        with suppress(TaskNotFound):  # where its name is not its queue's key
            broker.run(find_task(broker, f"id{number}", ["mail"]))


@pytest.fixture
def filled(single_broker: Broker, configuration: None, monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(exposition, "MAX_AGE_S", 0.0)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    fill(single_broker)
    return single_broker


def test_pages_and_metrics_are_shown_without_them(filled: Broker, admin_client: Client) -> None:
    pages = ["/admin/", "/admin/queues/queue/", "/admin/queues/queue/undefined/", "/admin/tasks/task/", "/readyz"]

    assert {page: admin_client.get(page).status_code for page in pages} == dict.fromkeys(pages, 200)
    assert b'queue="mail"' in exposition.page.read()
    queues = ApiClient(ADMIN_KEY).get("/api/cli/queues")
    assert queues.status_code == 200
    assert b'"mail"' in queues.content
    assert b"a{b" not in queues.content

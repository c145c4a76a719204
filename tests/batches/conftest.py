"""A server with queues, and steps of what happens to batches."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models import Count, Sum
from django.db.models.functions import Length

from batches.duties import BatchRunner, LostMembers
from batches.models import Batch, Member, WaitingMembers
from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.finish import archive, complete
from runqy.broker.tasks.lease import LeasedTask
from runqy.redis_connection import get_broker
from tasks.duties import TaskEnds
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.tasks import take


class Steps:
    """What maintenance and workers do, one step at a time."""

    def __init__(self) -> None:
        self.broker = get_broker()  # that of the requests: both have the same clock
        self._lost_members = LostMembers()
        catalog = get_fresh_catalog(0)
        self.work, self.done = (catalog.resolve(name).redis_queue for name in ("work", "done"))

    def enqueue(self) -> None:
        BatchRunner().run_tick(self.broker)

    def collect(self) -> None:
        TaskEnds().run_tick(self.broker)

    def find_lost(self) -> None:
        self._lost_members.run_tick(self.broker)

    def take(self, count: int = 1) -> list[LeasedTask]:
        return take(self.broker, count, self.work)

    def complete(self, *taken: LeasedTask) -> None:
        for each in taken:
            self.broker.run(complete(each.lease, each.message, b"1", now_ns=self.broker.now_ns()))

    def fail(self, *taken: LeasedTask) -> None:
        for each in taken:
            self.broker.run(archive(each.lease, each.message, error="E: 1", now_ns=self.broker.now_ns()))

    def settle(self) -> None:
        self.collect()
        self.enqueue()

    def callbacks(self) -> list[str]:
        pending = redis_of(self.broker).lrange(QueueKeys(self.done).pending, 0, -1)
        return [task_id.decode() for task_id in pending]


@pytest.fixture
def client(configuration: None) -> ApiClient:
    for name in ("work", "done", "other"):
        save_queue(spec=spec(name), source=QueueSource.API)
    return ApiClient()


@pytest.fixture
def steps(client: ApiClient, single_broker: Broker) -> Iterator[Steps]:
    yield Steps()
    assert {(row.batch_id, row.redis_queue): (row.count, row.size_bytes) for row in WaitingMembers.objects.all()} == {
        (row["batch"], row["redis_queue"]): (row["count"], row["size_bytes"])
        for row in Member.objects.filter(state="waiting")
        .order_by()
        .values("batch", "redis_queue")
        .annotate(count=Count("pk"), size_bytes=Sum(Length("request")))
    }


def body(count: int = 2, **members: Any) -> dict[str, Any]:
    """Return a batch of one call."""
    jobs = {"queue": "work", "jobs": [{"n": n} for n in range(count)]} if count else {}
    return {"name": "b", "callback": {"queue": "done", "payload": {"to": "ann"}}, "close": True, **jobs} | members


def create(client: ApiClient, **members: object) -> str:
    response = client.post("/batches", body(**members))
    assert response.status_code == 201, response.content
    batch_id: str = response.json()["id"]
    return batch_id


def counts(batch_id: str) -> dict[str, int]:
    found: dict[str, int] = Batch.objects.get(pk=batch_id).counts
    return found

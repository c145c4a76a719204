"""In which queues ends that foreign programs made are searched for."""

from collections.abc import Callable

import pytest
from django.utils import timezone

from batches.models import Batch
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.streams.ends import Notify, count_ends
from tasks.duties import ForeignEnds
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.tasks import put
from webhooks.operations import create_endpoint


def _allow_webhooks() -> None:
    save_queue(spec=spec("mail", webhook_hosts=("hooks.example.com",)), source=QueueSource.API)


def _create_endpoint() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    create_endpoint(url="https://hooks.example.com", events=["task.completed"], queues=["mail"])


def _create_batch() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    Batch.objects.create(created_by={}, created_at=timezone.now(), queues=["mail"])


@pytest.mark.parametrize("tell", [_allow_webhooks, _create_endpoint, _create_batch])
def test_only_queues_whose_ends_concern_somebody_are_searched(broker: Broker, tell: Callable[[], None]):
    tell()
    save_queue(spec=spec("other"), source=QueueSource.API)
    for queue in ("mail", "other"):
        keys = QueueKeys(queue)
        put(broker, queue, queue=queue, notify=Notify(batch="b"), retention_s=60)
        redis_of(broker).delete(keys.pending)
        redis_of(broker).hset(keys.task(queue), "state", "completed")
        redis_of(broker).zadd(keys.completed, {queue: broker.now_s() + 60})

    ForeignEnds().run_tick(broker)

    assert [broker.run(count_ends(queue)) for queue in ("mail", "other")] == [1, 0]

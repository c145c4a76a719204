"""Queues, and a worker's client."""

from collections.abc import Iterator

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.workers.redis_users import PREFIX
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import SERVER, WORKER_KEY


@pytest.fixture
def redis_user_queues(configuration: None) -> Iterator[None]:
    """Define queues. Delete Redis users: before, those that workers of other tests have left; at the end, all."""
    delete_redis_users(PREFIX)
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)
    save_queue(spec=spec("post"), source=QueueSource.API)
    yield
    delete_redis_users()


def delete_redis_users(prefix: str = "") -> None:
    with SERVER.client() as redis:
        for name in redis.acl_users():
            if name != "default" and name.startswith(prefix):
                redis.acl_deluser(name)


@pytest.fixture
def client() -> ApiClient:
    """Return a client with the worker's key."""
    return ApiClient(WORKER_KEY)

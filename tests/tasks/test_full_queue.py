"""Beyond max_waiting_tasks of its queue a task is refused with 429, and accepted as soon as there is room."""

import json

import pytest
import redis as redis_py

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec


@pytest.fixture
def full(client: ApiClient) -> ApiClient:
    """Return a client of a queue that has reached its limit of tasks."""
    save_queue(spec=spec("small", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    assert client.post("/queue/add", {"queue": "small", "data": {}}).status_code == 200
    return client


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}, {"delay": 60}])
def test_a_task_beyond_the_limit_is_refused_with_retry_after(full: ApiClient, options: dict[str, object]) -> None:
    response = full.post("/queue/add", {"queue": "small", "data": {}, **options})

    assert (response.status_code, problem(response)["code"]) == (429, "queue_full")
    assert response["Retry-After"] == "5"


def test_a_batch_is_enqueued_up_to_the_limit(client: ApiClient, redis: redis_py.Redis) -> None:
    save_queue(spec=spec("small", limits=LimitOverrides(max_waiting_tasks=2)), source=QueueSource.API)

    response = client.post("/queue/add-batch", {"queue": "small", "jobs": [{}] * 3})

    found = json.loads(response.content)
    assert (response.status_code, found["enqueued"], found["failed"]) == (200, 2, 1)
    assert "max_waiting_tasks" in found["errors"][2]
    assert found["codes"] == [None, None, "queue_full"]
    assert len(redis.keys(keys.lookup("*"))) == 2


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}])
def test_a_batch_beyond_the_limit_is_refused_and_leaves_nothing(
    full: ApiClient, redis: redis_py.Redis, options: dict[str, object]
) -> None:
    response = full.post("/queue/add-batch", {"queue": "small", "jobs": [{"data": {}, **options}] * 600})

    assert (response.status_code, problem(response)["code"]) == (429, "queue_full")
    assert redis.llen(QueueKeys("small").pending) == 1
    assert len(redis.keys(keys.lookup("*"))) == 1


def test_a_refused_batch_is_accepted_with_the_same_idempotency_key_later(
    full: ApiClient, redis: redis_py.Redis
) -> None:
    batch = {"queue": "small", "jobs": [{}]}
    refused = full.post("/queue/add-batch", batch, **{"Idempotency-Key": "k"})
    redis.delete(QueueKeys("small").pending)

    taken = full.post("/queue/add-batch", batch, **{"Idempotency-Key": "k"})

    assert (refused.status_code, refused["Retry-After"]) == (429, "5")
    assert (taken.status_code, json.loads(taken.content)["enqueued"]) == (200, 1)


def test_the_servers_default_applies_to_queues_without_a_limit(client: ApiClient, settings: object) -> None:
    settings.RUNQY_DEFAULT_MAX_WAITING_TASKS = 1  # type: ignore[attr-defined]

    statuses = [client.post("/queue/add", {"queue": "simple", "data": {}}).status_code for _ in range(2)]

    assert statuses == [200, 429]

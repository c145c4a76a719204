"""Beyond max_waiting_tasks of its queue a task is refused with 429, and accepted as soon as there is room."""

import json

import pytest
import redis as redis_py

from queues.definitions import StatedLimits
from queues.models import Source
from queues.operations import save_queue
from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec


@pytest.fixture
def full(client: ApiClient) -> ApiClient:
    """Return a client of a queue that has as many tasks as it may."""
    save_queue(spec=spec("small", limits=StatedLimits(max_waiting_tasks=1)), source=Source.API)
    assert client.post("/queue/add", {"queue": "small", "data": {}}).status_code == 200
    return client


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}, {"delay": 60}])
def test_a_task_too_many_is_refused_with_when_to_try_again(full: ApiClient, options: dict[str, object]) -> None:
    answer = full.post("/queue/add", {"queue": "small", "data": {}, **options})

    assert (answer.status_code, problem(answer)["code"]) == (429, "queue_full")
    assert answer["Retry-After"] == "5"


def test_a_batch_is_taken_as_far_as_there_is_room(client: ApiClient, redis: redis_py.Redis) -> None:
    save_queue(spec=spec("small", limits=StatedLimits(max_waiting_tasks=2)), source=Source.API)

    answer = client.post("/queue/add-batch", {"queue": "small", "jobs": [{}] * 3})

    found = json.loads(answer.content)
    assert (answer.status_code, found["enqueued"], found["failed"]) == (200, 2, 1)
    assert "max_waiting_tasks" in found["errors"][2]
    assert len(redis.keys(keys.lookup("*"))) == 2


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}])
def test_a_batch_without_room_is_refused_whole_and_leaves_nothing(
    full: ApiClient, redis: redis_py.Redis, options: dict[str, object]
) -> None:
    answer = full.post("/queue/add-batch", {"queue": "small", "jobs": [{"data": {}, **options}] * 600})

    assert (answer.status_code, problem(answer)["code"]) == (429, "queue_full")
    assert redis.llen(QueueKeys("small").pending) == 1
    assert len(redis.keys(keys.lookup("*"))) == 1


def test_a_batch_that_was_refused_whole_is_taken_under_the_same_idempotency_key_later(
    full: ApiClient, redis: redis_py.Redis
) -> None:
    batch = {"queue": "small", "jobs": [{}]}
    refused = full.post("/queue/add-batch", batch, **{"Idempotency-Key": "k"})
    redis.delete(QueueKeys("small").pending)

    taken = full.post("/queue/add-batch", batch, **{"Idempotency-Key": "k"})

    assert (refused.status_code, refused["Retry-After"]) == (429, "5")
    assert (taken.status_code, json.loads(taken.content)["enqueued"]) == (200, 1)


def test_the_servers_default_counts_where_a_queue_says_nothing(client: ApiClient, settings: object) -> None:
    settings.RUNQY_DEFAULT_MAX_WAITING_TASKS = 1  # type: ignore[attr-defined]

    statuses = [client.post("/queue/add", {"queue": "simple", "data": {}}).status_code for _ in range(2)]

    assert statuses == [200, 429]

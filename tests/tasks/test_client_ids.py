"""Tasks whose ids the client makes: repeated requests, other bodies, other clients, other queues."""

import uuid
from typing import Any

import pytest
import redis as redis_py

from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, lookup
from runqy.broker.tasks.enqueue import NewTask
from runqy.core.api_keys import Role
from tasks.enqueue_many import RequestedTasks, enqueue_tasks
from tasks.operations import enqueue_task, key_of_task_id
from tests.api.client import ApiClient, problem
from tests.support.redis_client import redis_of
from tests.support.tasks import take_one
from tests.tasks.task_helpers import succeed

SIMPLE = QueueKeys("simple")


def new_id() -> str:
    return str(uuid.uuid4())


def add(client: ApiClient, task_id: str, data: Any = None, *, queue: str = "simple", **options: Any) -> Any:
    body = {"queue": queue, "data": {"n": 1} if data is None else data, "task_id": task_id, **options}
    return client.post("/queue/add", body)


def add_many(client: ApiClient, *jobs: Any, queue: str = "simple") -> Any:
    return client.post("/queue/add-batch", {"queue": queue, "jobs": list(jobs)})


def job(task_id: str, data: Any = None) -> dict[str, Any]:
    return {"data": {"n": 1} if data is None else data, "task_id": task_id}


def test_a_repeated_request_returns_its_task(client: ApiClient, redis: redis_py.Redis, single_broker: Broker) -> None:
    task_id = new_id()
    first = add(client, task_id, delay="1h")
    again = add(client, task_id, delay="1h")

    assert (first.status_code, first.json()["info"]["id"]) == (200, task_id)
    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert redis.zcard(SIMPLE.scheduled) == 1


def test_a_task_that_has_ended_and_is_deleted_is_not_enqueued_again(
    client: ApiClient, redis: redis_py.Redis, single_broker: Broker
) -> None:
    task_id = new_id()
    first = add(client, task_id, retention=0)
    succeed(single_broker, take_one(single_broker, "simple"), b"1")
    assert not redis.exists(SIMPLE.task(task_id))

    again = add(client, task_id, retention=0)

    assert again.content == first.content
    assert not redis.llen(SIMPLE.pending)


@pytest.mark.parametrize("change", [{"data": {"n": 2}}, {"max_retry": 1}])
def test_another_body_is_refused(client: ApiClient, redis: redis_py.Redis, change: dict[str, Any]) -> None:
    task_id = new_id()
    add(client, task_id)

    refused = add(client, task_id, **change)

    assert (refused.status_code, problem(refused)["code"]) == (409, "task_exists")
    assert task_id in problem(refused)["detail"]
    assert redis.llen(SIMPLE.pending) == 1


def test_the_task_of_another_client_is_not_returned(client: ApiClient, redis: redis_py.Redis) -> None:
    task_id = new_id()
    add(client, task_id)
    other = create_api_key(name="other", role=Role.CLIENT, queues=[])

    refused = add(ApiClient(other.plain), task_id)

    assert (refused.status_code, problem(refused)["code"]) == (409, "task_exists")
    assert redis.llen(SIMPLE.pending) == 1


@pytest.mark.parametrize("is_batch", [False, True])
def test_the_id_of_a_task_of_another_queue_is_refused(client: ApiClient, redis: redis_py.Redis, is_batch: bool) -> None:
    task_id = new_id()
    add(client, task_id)

    refused = add_many(client, job(task_id), queue="limited") if is_batch else add(client, task_id, queue="limited")

    assert refused.status_code == 409
    assert redis.hget(lookup(task_id), "queue") == b"simple"
    assert not redis.llen(QueueKeys("limited").pending)


def test_ids_hold_in_every_topology(broker: Broker, queues: None) -> None:
    requested = [NewTask.requested(queue="simple", payload=b"{}", id=new_id()) for _ in range(3)]

    def enqueue_all(queue: str) -> list[str | None]:
        results = broker.run(enqueue_tasks(broker, spec=RequestedTasks(queue, requested, owner="me"))).results
        return [result.task_id for result in results]

    first = broker.run(enqueue_task(broker, requested[0], idempotency_key=key_of_task_id(requested[0], "me")))
    again = broker.run(enqueue_task(broker, requested[0], idempotency_key=key_of_task_id(requested[0], "me")))
    assert (first.record.id, again.record.id, again.is_replayed) == (requested[0].id, requested[0].id, True)
    assert redis_of(broker).hget(lookup(requested[0].id), "queue") == b"simple"
    assert enqueue_all("simple") == enqueue_all("simple") == [each.id for each in requested]
    assert redis_of(broker).llen(SIMPLE.pending) == 3
    for each in requested:
        assert redis_of(broker).hget(lookup(each.id), "queue") == b"simple"


def test_a_batch_is_repeated_task_by_task(client: ApiClient, redis: redis_py.Redis) -> None:
    ids = [new_id() for _ in range(600)]
    add(client, ids[0])
    add(client, ids[1], {"n": "other"})

    first = add_many(client, *map(job, ids))
    again = add_many(client, *map(job, ids))

    assert first.status_code == 200, first.content
    assert first.json()["task_ids"] == [ids[0], None, *ids[2:]]
    assert (first.json()["enqueued"], first.json()["codes"][1]) == (599, "task_exists")
    assert again.content == first.content
    assert redis.llen(SIMPLE.pending) == 600


def test_a_disabled_queue_still_returns_what_it_accepted(client: ApiClient) -> None:
    known, fresh = new_id(), new_id()
    add(client, known)
    first = add_many(client, job(known))
    assert ApiClient().post("/api/cli/queues/simple/disable", {}).status_code == 200

    assert add(client, known).json()["info"]["id"] == known
    assert add_many(client, job(known)).content == first.content
    mixed = add_many(client, job(known), job(fresh))
    assert mixed.json()["codes"] == [None, "queue_disabled"]
    refused = add_many(client, job(fresh))
    assert (refused.status_code, problem(refused)["code"]) == (409, "queue_disabled")


@pytest.mark.parametrize("task_id", ["", "1", 7, None, "F47AC10B-58CC-4372-A567-0E02B2C3D479", "x" * 36, "a:b"])
def test_an_id_that_is_no_uuid_is_refused(client: ApiClient, task_id: Any) -> None:
    refused = add(client, task_id)

    assert refused.status_code == 400
    assert problem(refused)["errors"][0].startswith("task_id: Must be a UUID")


def test_the_name_belongs_to_the_payload_of_a_flat_body(client: ApiClient) -> None:
    response = client.post("/queue/add", {"queue": "simple", "task_id": "mine"})

    assert response.json()["info"]["payload"] == {"task_id": "mine"}
    assert response.json()["info"]["id"] != "mine"


def test_an_idempotency_key_beside_it_is_refused(client: ApiClient) -> None:
    body = {"queue": "simple", "data": {}, "task_id": new_id()}

    refused = client.post("/queue/add", body, **{"Idempotency-Key": "k"})
    batch = client.post("/queue/add-batch", {"queue": "simple", "jobs": [job(new_id())]}, **{"Idempotency-Key": "k"})

    assert problem(refused)["errors"] == problem(batch)["errors"]
    assert "Idempotency-Key: Must not be sent with task_id" in problem(refused)["errors"][0]


def test_a_batch_in_which_only_some_jobs_have_ids_is_refused(client: ApiClient, redis: redis_py.Redis) -> None:
    refused = add_many(client, job(new_id()), {"data": {}})

    assert problem(refused)["errors"] == ["jobs: Either each job has a task_id, or none has."]
    assert not redis.llen(SIMPLE.pending)

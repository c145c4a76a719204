"""POST /queue/add-batch: the outcome of each task."""

import json
import threading
from typing import Any

import pytest
import redis as redis_py
import runqy_python

from queues.queries import get_fresh_catalog
from runqy.accounts.operations import create_api_key
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.enqueue import IdempotencyKey, NewTask
from runqy.core.api_keys import Role
from tasks.enqueue_many import RequestedTasks, enqueue_tasks
from tests.api.client import ApiClient, Response, problem
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.support.redis_client import redis_of


def post(client: ApiClient, jobs: Any, queue: str = "simple", **rest: Any) -> Response:
    """Send a batch."""
    return client.post("/queue/add-batch", {"queue": queue, "jobs": jobs, **rest})


def outcome(response: Response) -> dict[str, Any]:
    """Return the body of a batch's response."""
    assert response.status_code == 200, response.content
    found: dict[str, Any] = json.loads(response.content)
    return found


def message(redis: redis_py.Redis, task_id: str, queue: str = "simple") -> TaskMessage:
    """Return the stored message of a task."""
    return TaskMessage.FromString(redis.hget(QueueKeys(queue).task(task_id), "msg"))


def test_both_forms_of_a_job_are_enqueued_in_order(client: ApiClient, redis: redis_py.Redis) -> None:
    body = (
        b'{"queue":"inference.high","timeout":300,"jobs":[{"timeout":60,"data":{"big":9007199254740993}}, {"n": 1},\n'
    )
    body += b'{"data":{"a":1},"prompt":"x"}]}'

    found = outcome(client.post("/queue/add-batch", body))

    assert (found["enqueued"], found["failed"], found["errors"]) == (3, 0, [None] * 3)
    stored = [message(redis, task_id, "inference_high") for task_id in found["task_ids"]]
    assert [m.payload for m in stored] == [b'{"big":9007199254740993}', b'{"n": 1}', b'{"data":{"a":1},"prompt":"x"}']
    assert [m.timeout for m in stored] == [60, 300, 300]
    waiting = redis.lrange(QueueKeys("inference_high").pending, 0, -1)[::-1]
    assert [task_id.decode() for task_id in waiting] == found["task_ids"]


def test_each_job_has_its_own_outcome(client: ApiClient, redis: redis_py.Redis) -> None:
    jobs = [
        {"prompt": "a"},
        {"width": 3},
        "text",
        {"data": 5},
        {"data": {"prompt": "b"}, "timeout": "x"},
        {"prompt": "c"},
    ]

    found = outcome(post(client, jobs, "image"))

    assert (found["enqueued"], found["failed"]) == (2, 4)
    assert [task_id is None for task_id in found["task_ids"]] == [False, True, True, True, True, False]
    errors = [error and error.split(":")[0] for error in found["errors"]]
    assert errors == [None, "prompt", "data", "data", "timeout", None]
    assert message(redis, found["task_ids"][0], "image").payload == b'{"prompt": "a","width":512,"style":"plain"}'


def test_jobs_of_a_queue_without_a_schema_are_any_json(client: ApiClient, redis: redis_py.Redis) -> None:
    jobs = [[1, 2], "text", 3, None, {"data": [4]}, {"data": "five"}, {"n": 6}]

    found = outcome(post(client, jobs))

    assert (found["enqueued"], found["failed"]) == (7, 0)
    payloads = [message(redis, task_id).payload for task_id in found["task_ids"]]
    assert [json.loads(payload) for payload in payloads] == [[1, 2], "text", 3, None, [4], "five", {"n": 6}]


def test_options_of_a_job_override_those_of_the_batch(client: ApiClient, redis: redis_py.Redis) -> None:
    jobs = [
        {},
        {"data": {}, "max_retry": 0, "retention": 0, "process_at": "2020-01-01T00:00:00Z"},
        {"data": {}, "deadline": "2100-01-01T00:00:00+01:00"},
    ]

    ids = outcome(post(client, jobs, delay="1h", max_retry=9, retention=7))["task_ids"]

    stored = [message(redis, task_id) for task_id in ids]
    assert [(m.retry, m.retention, m.deadline) for m in stored] == [(9, 7, 0), (0, 0, 0), (9, 7, 4_102_441_200)]
    assert redis.zcard(QueueKeys("simple").scheduled) == 2
    assert redis.lrange(QueueKeys("simple").pending, 0, -1) == [ids[1].encode()]


def test_the_members_of_a_job_may_have_escapes_in_their_names(client: ApiClient, redis: redis_py.Redis) -> None:
    response = client.post("/queue/add-batch", rb'{"queue": "simple", "jobs": [{"d\u0061ta": {"x": 1}, "timeout": 5}]}')

    (task_id,) = outcome(response)["task_ids"]
    info = json.loads(client.get(f"/queue/{task_id}").content)["info"]
    assert (info["payload"], info["timeout"]) == ({"x": 1}, "5s")


def test_timeouts_of_a_batch_and_of_its_jobs_may_be_durations(client: ApiClient, redis: redis_py.Redis) -> None:
    ids = outcome(post(client, [{}, {"data": {}, "timeout": "30s"}], timeout="5m"))["task_ids"]

    assert [message(redis, task_id).timeout for task_id in ids] == [300, 30]


def test_a_job_with_a_timeout_of_null_has_that_of_the_batch(client: ApiClient, redis: redis_py.Redis) -> None:
    ids = outcome(post(client, [{"data": {}, "timeout": None}, {"data": {}, "timeout": 0}], timeout=7))["task_ids"]

    assert [message(redis, task_id).timeout for task_id in ids] == [7, 1800]


def test_a_batch_of_many_tasks_is_enqueued(client: ApiClient, redis: redis_py.Redis) -> None:
    found = outcome(post(client, [{"n": n} for n in range(1201)]))

    assert found["enqueued"] == 1201
    assert [task_id.decode() for task_id in redis.lrange(QueueKeys("simple").pending, 0, -1)[::-1]] == found["task_ids"]


@pytest.mark.parametrize("extra", [{}, {"unique_key": "u"}])
def test_a_batch_of_invalid_jobs_is_refused_by_job(
    client: ApiClient, redis: redis_py.Redis, extra: dict[str, Any]
) -> None:
    response = post(client, [{"data": {}, **extra}, {"data": {"width": 1}}], "image")

    found = problem(response)
    assert (response.status_code, found["code"]) == (400, "batch_refused")
    assert [error[:15] for error in found["errors"]] == ["jobs[0]: prompt", "jobs[1]: prompt"]
    assert redis.keys("asynq:{image}*") == []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"queue": "simple"}, ["jobs"]),
        ({"queue": "simple", "jobs": []}, ["jobs"]),
        ({"queue": "simple", "jobs": {}}, ["jobs"]),
        ({"queue": "simple", "jobs": None}, ["jobs"]),
        ({"jobs": [{}]}, ["queue"]),
        ({"queue": 1, "jobs": [{}], "timeout": "x"}, ["queue", "timeout"]),
        ({"queue": "simple", "jobs": [{}], "unique_key": "u"}, ["unique_key"]),
        ({"queue": "simple", "jobs": [{}], "delay": 1, "process_at": "2030-01-01T00:00:00Z"}, ["process_at"]),
    ],
)
def test_invalid_options_of_a_batch_are_refused_by_name(client: ApiClient, body: Any, names: list[str]) -> None:
    response = client.post("/queue/add-batch", body)

    assert response.status_code == 400
    assert [error.replace(":", " ").split()[0] for error in problem(response)["errors"]] == names


def test_too_many_jobs_are_refused_with_the_limit(client: ApiClient, redis: redis_py.Redis) -> None:
    response = client.post("/queue/add-batch", b'{"queue":"simple","jobs":[' + b"{}," * 10_000 + b"{}]}")

    assert (response.status_code, problem(response)["code"]) == (413, "batch_too_large")
    assert "10001 tasks exceed the limit of 10000" in problem(response)["detail"]
    assert not redis.exists(QueueKeys("simple").pending)


def test_unknown_and_disabled_queues_are_refused(client: ApiClient) -> None:
    assert problem(post(client, [{}], "nope"))["code"] == "queue_not_found"
    assert post(client, [{}], "off").status_code == 409


def test_keys_without_permission_are_refused(client: ApiClient) -> None:
    other = create_api_key(name="other", role=Role.CLIENT, queues=["inference"]).plain

    assert post(ApiClient(None), [{}]).status_code == 401
    assert post(ApiClient(WORKER_KEY), [{}]).status_code == 403
    assert post(ApiClient(other), [{}]).status_code == 404


def test_the_first_of_jobs_with_the_same_unique_key_is_enqueued(client: ApiClient, redis: redis_py.Redis) -> None:
    unique = {"data": {}, "unique_key": "u"}

    found = outcome(post(client, [unique, unique | {"on_conflict": "return"}, unique, {"n": 1}]))

    first, second, third, fourth = found["task_ids"]
    assert (first, third) == (second, None)
    assert (found["enqueued"], found["failed"], found["existing"]) == (2, 1, [1])
    assert first in found["errors"][2]
    assert redis.lrange(QueueKeys("simple").pending, 0, -1) == [fourth.encode(), first.encode()]


def test_a_batch_of_conflicts_is_a_conflict(client: ApiClient, redis: redis_py.Redis) -> None:
    unique = {"data": {}, "unique_key": "u"}
    post(client, [unique])

    conflicting, mixed = post(client, [unique, unique]), post(client, [unique, {"data": 1, "unique_key": ""}])

    assert (conflicting.status_code, problem(conflicting)["code"]) == (409, "batch_conflict")
    assert len(problem(conflicting)["errors"]) == 2
    assert (mixed.status_code, problem(mixed)["code"]) == (400, "batch_refused")
    assert redis.llen(QueueKeys("simple").pending) == 1


def test_a_repeated_batch_gets_the_first_response(client: ApiClient, redis: redis_py.Redis) -> None:
    body = {"queue": "image", "jobs": [{"prompt": "a"}, {}, *({"prompt": str(n)} for n in range(600))]}
    headers = {"Idempotency-Key": "k1"}

    first = client.post("/queue/add-batch", body, **headers)
    second = client.post("/queue/add-batch", body, **headers)

    assert outcome(first)["enqueued"] == 601
    assert second.content == first.content
    assert (first.get("Idempotent-Replayed"), second["Idempotent-Replayed"]) == (None, "true")
    assert redis.llen(QueueKeys("image").pending) == 601


def test_the_key_of_a_batch_of_conflicts_can_be_used_again(client: ApiClient, redis: redis_py.Redis) -> None:
    job = {"data": {}, "unique_key": "u"}
    (locked,) = outcome(post(client, [job]))["task_ids"]
    body = {"queue": "simple", "jobs": [job, job]}
    conflict = client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"})
    assert (conflict.status_code, problem(conflict)["code"]) == (409, "batch_conflict")
    assert not list(redis.scan_iter("*created*"))

    ApiClient().delete(f"/api/cli/queues/simple/tasks/{locked}")
    accepted = client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"})
    repeated = client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"})

    assert outcome(accepted)["enqueued"] == 1
    assert repeated.content == accepted.content
    assert redis.llen(QueueKeys("simple").pending) == 1


def test_the_key_of_a_refused_batch_can_be_used_for_another(client: ApiClient, redis: redis_py.Redis) -> None:
    refused = client.post("/queue/add-batch", {"queue": "image", "jobs": [{"width": 1}]}, **{"Idempotency-Key": "k1"})
    assert (refused.status_code, problem(refused)["code"]) == (400, "batch_refused")

    corrected = client.post(
        "/queue/add-batch", {"queue": "image", "jobs": [{"width": 1, "prompt": "x"}]}, **{"Idempotency-Key": "k1"}
    )

    assert outcome(corrected)["enqueued"] == 1


def test_a_batch_with_an_existing_task_is_recorded(client: ApiClient, redis: redis_py.Redis) -> None:
    job = {"data": {}, "unique_key": "u", "on_conflict": "return"}
    locked = outcome(post(client, [job]))["task_ids"]
    body = {"queue": "simple", "jobs": [job]}
    first = client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"})
    ApiClient().delete(f"/api/cli/queues/simple/tasks/{locked[0]}")

    again = client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"})

    assert outcome(first)["task_ids"] == outcome(again)["task_ids"] == locked
    assert not redis.llen(QueueKeys("simple").pending)


def test_an_interrupted_batch_is_completed_by_its_repetition(client: ApiClient, redis: redis_py.Redis) -> None:
    body = {"queue": "simple", "jobs": [{"n": n} for n in range(700)]}
    whole = outcome(client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"}))
    (record,) = redis.keys("runqy:q:{simple}:created:*")
    redis.hdel(record, "response:1", "outcomes:1")  # as if the process had died between the two calls
    for task_id in whole["task_ids"][500:]:
        redis.delete(QueueKeys("simple").task(task_id))
        redis.lrem(QueueKeys("simple").pending, 0, task_id)

    again = outcome(client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"}))

    assert again == whole
    assert redis.llen(QueueKeys("simple").pending) == 700


def test_concurrent_repetitions_of_a_batch_enqueue_it_once(client: ApiClient, redis: redis_py.Redis) -> None:
    body = {"queue": "simple", "jobs": [{"n": n} for n in range(20)]}
    responses: list[bytes] = []

    def send() -> None:
        responses.append(client.post("/queue/add-batch", body, **{"Idempotency-Key": "k1"}).content)

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(responses) == 12
    assert len(set(responses)) == 1
    assert redis.llen(QueueKeys("simple").pending) == 20
    assert len(redis.keys("asynq:t:*")) == 20


def test_batches_with_keys_work_on_a_cluster(client: ApiClient, broker: Broker) -> None:
    items = [NewTask.requested(queue="simple", payload=b"{}", unique_key=str(n % 600)) for n in range(700)]
    batch, idempotency_key = RequestedTasks("simple", items), IdempotencyKey(scope="s", fingerprint="f")

    get_fresh_catalog()

    first = broker.run(enqueue_tasks(broker, spec=batch, idempotency_key=idempotency_key))
    second = broker.run(enqueue_tasks(broker, spec=batch, idempotency_key=idempotency_key))

    assert (first.is_replayed, second.is_replayed) == (False, True)
    assert [item.task_id for item in first.results] == [item.task_id for item in second.results]
    assert sum(item.task_id is not None for item in first.results) == 600
    assert redis_of(broker).llen(QueueKeys("simple").pending) == 600


@pytest.mark.parametrize(
    "damage",
    [
        {"request_token": b"\xff"},
        {"request_token": b"junk"},
        {"request_token": None},
        {"now_ns": None},
        {"now_ns": b"1e5"},
        {"now_ns": b"9" * 30},
        {"fingerprint": None},
        {"response:0": b"\xff"},
        {"response:0": b"[null]"},
        {"response:0": b"{}"},
        {"outcomes:0": b"\xff"},
        {"outcomes:0": b"5"},
        {"outcomes:0": b"[1]"},
        {"outcomes:0": b"[[1],1]"},
        {},
    ],
    ids=str,
)
def test_a_damaged_record_of_a_batch_enqueues_nothing_and_says_so(
    client: ApiClient, redis: redis_py.Redis, damage: dict[str, bytes | None]
) -> None:
    body, headers = {"queue": "simple", "jobs": [{}, {"n": 1}]}, {"Idempotency-Key": "k1"}
    client.post("/queue/add-batch", body, **headers)
    (record,) = redis.keys(QueueKeys("simple").created("*"))
    for name, value in damage.items():
        redis.hdel(record, name) if value is None else redis.hset(record, name, value)
    if not damage:
        redis.set(record, "a key of another type")

    response = client.post("/queue/add-batch", body, **headers)

    assert (response.status_code, problem(response)["code"]) == (409, "idempotency_record_unreadable")
    assert redis.llen(QueueKeys("simple").pending) == 2


def test_another_batch_under_the_same_key_is_refused(client: ApiClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    client.post("/queue/add-batch", {"queue": "simple", "jobs": [{}]}, **headers)

    response = client.post("/queue/add-batch", {"queue": "simple", "jobs": [{}, {}]}, **headers)

    assert (response.status_code, problem(response)["code"]) == (422, "idempotency_key_reused")


def test_the_published_sdk_sends_batches(client: ApiClient, live_server: Any) -> None:
    sdk = runqy_python.RunqyClient(live_server.url, api_key=CLIENT_KEY)

    result = sdk.enqueue_batch("simple", [{"n": 1}, {"n": 2}], timeout=60)

    assert (result.enqueued, result.failed, len(result.task_ids)) == (2, 0, 2)
    assert sdk.get_task(result.task_ids[1]).payload == {"n": 2}

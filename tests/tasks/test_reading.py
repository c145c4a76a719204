"""GET /queue/{id} without waiting: what a task looks like at each stage, and who may see it."""

import json
from typing import Any

import pytest
import redis as redis_py

from queues.operations import delete_definition
from runqy.accounts.identity import Role
from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, lookup
from runqy.publication.operations import configuration_change
from tests.api.client import ApiClient, problem
from tests.support.environment import ADMIN_KEY, WORKER_KEY
from tests.support.tasks import take, take_one
from tests.tasks.life import fail_for_good, succeed


def shown(client: ApiClient, task_id: str) -> dict[str, Any]:
    """Return what the API says about a task."""
    answer = client.get(f"/queue/{task_id}")
    assert answer.status_code == 200, answer.content
    info: dict[str, Any] = json.loads(answer.content)["info"]
    return info


@pytest.fixture
def task_id(client: ApiClient) -> str:
    """Return the id of a pending task."""
    answer = client.post("/queue/add", {"queue": "simple", "data": {"n": 1}})
    found: str = json.loads(answer.content)["info"]["id"]
    return found


def test_a_pending_task_shows_what_was_sent(client: ApiClient, task_id: str) -> None:
    info = shown(client, task_id)

    assert (info["id"], info["queue"], info["state"]) == (task_id, "simple", "pending")
    assert (info["payload"], info["result"], info["started_at"]) == ({"n": 1}, None, None)
    assert info["enqueued_at"].endswith("Z")


def test_a_running_task_shows_its_worker(client: ApiClient, task_id: str, single_broker: Broker) -> None:
    take(single_broker, 1, "simple", worker_id="w-1")

    info = shown(client, task_id)

    assert (info["state"], info["worker_id"]) == ("active", "w-1")
    assert info["started_at"].endswith("Z")


@pytest.mark.parametrize(
    ("result", "bytes_in_answer"),
    [
        (b'{"big": 9007199254740993, "f":1.10}', b'"result":{"big": 9007199254740993, "f":1.10},'),
        (b"plain text", b'"result":"plain text",'),
        (b"NaN", b'"result":"NaN",'),
        (b"\xff\x00", '"result":"�\\u0000",'.encode()),
        (b"[" * 100_000 + b"]" * 100_000, b'"result":"[[['),
        (b"null", b'"result":null,'),
    ],
)
def test_a_result_that_is_json_keeps_its_bytes_and_any_other_is_a_text(
    client: ApiClient, task_id: str, single_broker: Broker, result: bytes, bytes_in_answer: bytes
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), result)

    answer = client.get(f"/queue/{task_id}")

    assert bytes_in_answer in answer.content
    assert json.loads(answer.content)["info"]["state"] == "completed"
    info = json.loads(answer.content)["info"]
    assert info["started_at"] < info["completed_at"]


def test_a_failed_task_shows_why(client: ApiClient, task_id: str, single_broker: Broker) -> None:
    fail_for_good(single_broker, take_one(single_broker, "simple"), "it broke")

    info = shown(client, task_id)

    assert (info["state"], info["last_err"], info["error"]) == ("archived", "it broke", "it broke")


def test_a_task_whose_lookup_is_gone_is_found_in_the_known_queues(
    client: ApiClient, task_id: str, redis: redis_py.Redis
) -> None:
    redis.delete(lookup(task_id))

    assert shown(client, task_id)["state"] == "pending"


def test_an_unknown_task_is_not_found(client: ApiClient) -> None:
    answer = client.get("/queue/00000000-0000-0000-0000-000000000000")

    assert (answer.status_code, problem(answer)["code"]) == (404, "task_not_found")


def test_a_lookup_without_a_task_is_not_found(client: ApiClient, task_id: str, redis: redis_py.Redis) -> None:
    redis.delete(QueueKeys("simple").task(task_id))

    assert client.get(f"/queue/{task_id}").status_code == 404


def test_a_task_outlives_the_definition_of_its_queue(client: ApiClient, task_id: str) -> None:
    with configuration_change() as change:
        delete_definition(change, "simple")

    assert shown(client, task_id)["queue"] == "simple"


def test_a_key_limited_to_queues_sees_no_other_queue(client: ApiClient, task_id: str) -> None:
    other = ApiClient(create_api_key(name="other", role=Role.CLIENT, queues=["inference"]).plain)
    own = ApiClient(create_api_key(name="own", role=Role.CLIENT, queues=["simple"]).plain)

    assert own.get(f"/queue/{task_id}").status_code == 200
    assert problem(other.get(f"/queue/{task_id}"))["code"] == "task_not_found"
    assert problem(other.post("/queue/add", {"queue": "simple", "data": {}}))["code"] == "queue_not_found"


def test_an_administrator_may_read_and_a_worker_may_not(client: ApiClient, task_id: str) -> None:
    assert ApiClient(ADMIN_KEY).get(f"/queue/{task_id}").status_code == 200
    assert ApiClient(WORKER_KEY).get(f"/queue/{task_id}").status_code == 403
    assert ApiClient("wrong").get(f"/queue/{task_id}").status_code == 401
    assert ApiClient(None).get(f"/queue/{task_id}").status_code == 401

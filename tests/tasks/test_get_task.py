"""GET /queue/{id} without waiting: a task in each state, and who may read it."""

import json
from typing import Any

import pytest
import redis as redis_py
import runqy_python

from queues.operations import delete_definition
from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, lookup
from runqy.configuration.operations import configuration_change
from runqy.core.api_keys import Role
from tests.api.client import ApiClient, problem
from tests.support.environment import ADMIN_KEY, CLIENT_KEY, WORKER_KEY
from tests.support.tasks import take, take_one
from tests.tasks.task_helpers import fail_for_good, succeed


def task_of(client: ApiClient, task_id: str) -> dict[str, Any]:
    """Return the body of a task's response."""
    response = client.get(f"/queue/{task_id}")
    assert response.status_code == 200, response.content
    info: dict[str, Any] = json.loads(response.content)["info"]
    return info


@pytest.fixture
def task_id(client: ApiClient) -> str:
    """Return the id of a pending task."""
    response = client.post("/queue/add", {"queue": "simple", "data": {"n": 1}})
    found: str = json.loads(response.content)["info"]["id"]
    return found


def test_a_pending_task_shows_its_payload(client: ApiClient, task_id: str) -> None:
    info = task_of(client, task_id)

    assert (info["id"], info["queue"], info["state"]) == (task_id, "simple", "pending")
    assert (info["payload"], info["result"], info["started_at"]) == ({"n": 1}, None, None)
    assert info["enqueued_at"].endswith("Z")


@pytest.mark.parametrize("wait", ["", "&wait=10ms"])
def test_a_task_is_shown_without_its_payload(client: ApiClient, task_id: str, wait: str) -> None:
    without, with_payload = (
        json.loads(client.get(f"/queue/{task_id}?payload={value}{wait}").content)["info"] for value in ("false", "true")
    )

    assert with_payload.pop("payload") == {"n": 1}
    assert without == with_payload


@pytest.mark.parametrize("value", ["", "none", "2"])
def test_another_value_than_true_and_false_is_refused(client: ApiClient, task_id: str, value: str) -> None:
    response = client.get(f"/queue/{task_id}?payload={value}")

    assert (response.status_code, problem(response)["errors"]) == (400, ["payload: Must be true or false."])


def test_a_running_task_shows_its_worker(client: ApiClient, task_id: str, single_broker: Broker) -> None:
    take(single_broker, 1, "simple", worker_id="w-1")

    info = task_of(client, task_id)

    assert (info["state"], info["worker_id"]) == ("active", "w-1")
    assert info["started_at"].endswith("Z")


@pytest.mark.parametrize(
    ("result", "bytes_in_response"),
    [
        (b'{"big": 9007199254740993, "f":1.10}', b'"result":{"big": 9007199254740993, "f":1.10},'),
        (b"plain text", b'"result":"plain text",'),
        (b"NaN", b'"result":"NaN",'),
        (b"\xff\x00", '"result":"�\\u0000",'.encode()),
        (b"[" * 100_000 + b"]" * 100_000, b'"result":"[[['),
        (b"null", b'"result":null,'),
    ],
)
def test_a_json_result_keeps_its_bytes_and_others_are_strings(
    client: ApiClient, task_id: str, single_broker: Broker, result: bytes, bytes_in_response: bytes
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), result)

    response = client.get(f"/queue/{task_id}")

    assert bytes_in_response in response.content
    assert json.loads(response.content)["info"]["state"] == "completed"
    info = json.loads(response.content)["info"]
    assert info["started_at"] < info["completed_at"]


@pytest.mark.parametrize(
    "value", ["42", "true", '{"a": 1}', "NaN", "", "plain", "two\nlines", 42, None, {"a": "42"}, ["1"]]
)
def test_a_result_keeps_its_type_in_the_published_sdk(
    client: ApiClient, task_id: str, single_broker: Broker, live_server: Any, value: Any
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), json.dumps(value).encode())

    response = client.get(f"/queue/{task_id}")

    sdk = runqy_python.RunqyClient(live_server.url, api_key=CLIENT_KEY)
    assert sdk.get_task(task_id).result == json.loads(response.content)["info"]["result"] == value


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (b'"42"', '"42"'),
        (b' "a\\u00e9"', ' "a\\u00e9"'),
        (b"NaN", '"NaN"'),
        (b"42", None),
        (b'{"a":"b"}', None),
        (b"null", None),
    ],
)
def test_only_a_string_has_its_json_text_beside_it(
    client: ApiClient, task_id: str, single_broker: Broker, result: bytes, text: str | None
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), result)

    members = list(json.loads(client.get(f"/queue/{task_id}").content)["info"].items())

    names = [name for name, _ in members]
    assert dict(members).get("Result") == text
    if text is not None:
        assert names.index("Result") == names.index("result") - 1, "Go's decoders keep the last of the two"


def test_a_failed_task_shows_its_error(client: ApiClient, task_id: str, single_broker: Broker) -> None:
    fail_for_good(single_broker, take_one(single_broker, "simple"), "it broke")

    info = task_of(client, task_id)

    assert (info["state"], info["last_err"], info["error"]) == ("archived", "it broke", "it broke")


@pytest.mark.parametrize("name", ["*", "simple"])
def test_a_task_without_a_lookup_is_found_in_foreign_queues(
    client: ApiClient, task_id: str, redis: redis_py.Redis, settings: Any, name: str
) -> None:
    redis.delete(lookup(task_id))
    refused = client.get(f"/queue/{task_id}")
    settings.RUNQY_FOREIGN_QUEUES = frozenset({name})

    assert task_of(client, task_id)["state"] == "pending"
    assert refused.status_code == 404


def test_an_unknown_task_is_not_found(client: ApiClient) -> None:
    response = client.get("/queue/00000000-0000-0000-0000-000000000000")

    assert (response.status_code, problem(response)["code"]) == (404, "task_not_found")


def test_a_lookup_without_a_task_is_not_found(client: ApiClient, task_id: str, redis: redis_py.Redis) -> None:
    redis.delete(QueueKeys("simple").task(task_id))

    assert client.get(f"/queue/{task_id}").status_code == 404


def test_a_task_outlives_the_definition_of_its_queue(client: ApiClient, task_id: str) -> None:
    with configuration_change() as change:
        delete_definition(change, "simple")

    assert task_of(client, task_id)["queue"] == "simple"


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

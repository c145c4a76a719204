"""Listing the tasks of a queue and showing one, under both paths."""

import json

import pytest
import redis as redis_py

from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.core.api_keys import Role
from tests.api.client import ApiClient, content, problem
from tests.support.environment import WORKER_KEY
from tests.support.tasks import put, put_in_group, take, take_one
from tests.tasks.task_helpers import fail_for_good, succeed

PREFIXES = ("/api/cli/queues", "/api/queues")
READ_BY_CLIENTS = {"id", "type", "queue", "state", "payload", "max_retry", "retried", "last_err", "timeout"}
READ_BY_CLIENTS |= {"deadline", "next_process_at", "completed_at", "result"}
TIMES = {"enqueued_at", "pending_since", "started_at", "last_failed_at", "archived_at", "expires_at", "cancel_asked_at"}


def all_ids(client: ApiClient, path: str) -> list[list[str]]:
    """Return the ids on each page, following `next`."""
    pages, following = [], path
    while following:
        page = content(client, following)
        pages.append([task["id"] for task in page["tasks"]])
        following = page["next"]
    return pages


@pytest.mark.parametrize("prefix", PREFIXES)
def test_tasks_are_listed_with_what_clients_read(client: ApiClient, single_broker: Broker, prefix: str) -> None:
    put(single_broker, "t1", "t2", queue="inference_high", timeout_s=300)

    found = content(client, f"{prefix}/inference.high/tasks?state=pending&limit=10")

    assert [task["id"] for task in found["tasks"]] == ["t1", "t2"]
    assert found["tasks"][0].keys() >= READ_BY_CLIENTS
    assert (found["tasks"][0]["timeout"], found["tasks"][0]["payload"]) == ("5m0s", {"n": 1})
    assert (found["count"], found["next"]) == (2, None)


def test_tasks_in_groups_of_asynq_are_listed(client: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", "t2", "t3", queue="simple")
    for task_id, group in (("t1", "b"), ("t2", "b"), ("t3", "a")):
        put_in_group(single_broker, group, task_id, queue="simple")

    assert all_ids(client, "/api/cli/queues/simple/tasks?state=aggregating&limit=2") == [["t3", "t1"], ["t2"]]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("order", "reverse"), [("oldest", False), ("newest", True)])
def test_pages_are_consecutive(
    client: ApiClient, single_broker: Broker, prefix: str, order: str, reverse: bool
) -> None:
    put(single_broker, "t1", "t2", "t3", "t4", "t5", queue="simple")
    first = client.get(f"{prefix}/simple/tasks?limit=2&order={order}")

    following = json.loads(first.content)["next"]

    assert following.startswith(f"{prefix}/simple/tasks?")
    assert first["Link"].startswith(f'<{following}>; rel="next"')
    assert all_ids(client, f"{prefix}/simple/tasks?limit=2&order={order}") == (
        [["t5", "t4"], ["t3", "t2"], ["t1"]] if reverse else [["t1", "t2"], ["t3", "t4"], ["t5"]]
    )


def test_each_state_has_its_own_list(client: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "a", "b", "c", "d", queue="simple")
    put(single_broker, "s", queue="simple", process_at_s=single_broker.now_s() + 60)
    first, second, _ = take(single_broker, 3, "simple")
    succeed(single_broker, first, b"1")
    fail_for_good(single_broker, second, "boom")

    found = {
        state: all_ids(client, f"/api/cli/queues/simple/tasks?state={state}")
        for state in ("pending", "active", "scheduled", "retry", "archived", "completed")
    }

    assert found == {
        "pending": [["d"]],
        "active": [["c"]],
        "scheduled": [["s"]],
        "retry": [[]],
        "archived": [["b"]],
        "completed": [["a"]],
    }


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("state=nope", "state"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("order=up", "order"),
        ("cursor=nope", "cursor"),
        ("cursor=bnVsbA", "cursor"),
        ("cursor=%FF%00", "cursor"),
        ("cursor=" + "W" * 5000, "cursor"),
    ],
)
def test_an_invalid_query_is_refused_by_parameter(client: ApiClient, query: str, named: str) -> None:
    response = client.get(f"/api/cli/queues/simple/tasks?{query}")

    assert (response.status_code, problem(response)["code"]) == (400, "invalid_request")
    assert problem(response)["errors"][0].startswith(f"{named}:")


@pytest.mark.parametrize(
    ("of_this", "of_another"), [("state=pending", "state=archived"), ("queues/simple/", "queues/inference_high/")]
)
def test_a_cursor_of_another_list_is_refused(
    client: ApiClient, single_broker: Broker, of_this: str, of_another: str
) -> None:
    put(single_broker, "t1", "t2", queue="simple")
    following = content(client, "/api/cli/queues/simple/tasks?limit=1&state=pending")["next"]

    response = client.get(following.replace(of_this, of_another))

    assert (response.status_code, problem(response)["errors"][0].split(":")[0]) == (400, "cursor")


def test_a_limit_beyond_the_maximum_is_the_maximum(client: ApiClient) -> None:
    assert content(client, "/api/cli/queues/simple/tasks?limit=99999999999999999999999")["tasks"] == []


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_active_task_is_shown_with_all_details(client: ApiClient, single_broker: Broker, prefix: str) -> None:
    put(single_broker, "t1", queue="simple", timeout_s=600, max_retry=3)
    take(single_broker, 1, "simple", worker_id="w-1")

    body = content(client, f"{prefix}/simple/tasks/t1")

    assert body.keys() >= READ_BY_CLIENTS | TIMES
    assert (body["id"], body["state"], body["worker_id"], body["attempts"]) == ("t1", "active", "w-1", 1)
    assert (body["payload"], body["timeout"], body["max_retry"], body["deadline"]) == ({"n": 1}, "10m0s", 3, None)
    assert body["started_at"].endswith("Z")
    assert body["lease_ends_at"].endswith("Z")


def test_an_ended_task_shows_when_it_expires(client: ApiClient, single_broker: Broker, redis: redis_py.Redis) -> None:
    put(single_broker, "t1", "t2", queue="simple", ttl_archived_s=60)
    succeed(single_broker, take_one(single_broker, "simple"), b'{"ok": true}')
    fail_for_good(single_broker, take_one(single_broker, "simple"), "boom")
    redis.zadd(QueueKeys("simple").archived, {"t2": 1_700_000_000})
    redis.zadd(QueueKeys("simple").completed, {"t1": 1_700_000_000})

    done, failed = (content(client, f"/api/cli/queues/simple/tasks/{task_id}") for task_id in ("t1", "t2"))

    assert (done["result"], done["expires_at"]) == ({"ok": True}, "2023-11-14T22:13:20Z")
    assert (failed["archived_at"], failed["expires_at"]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z")
    assert (failed["error"], failed["is_canceled"]) == ("boom", False)
    assert failed["last_failed_at"] is not None


def test_a_client_that_has_the_current_version_gets_no_body(client: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    path = "/api/cli/queues/simple/tasks/t1"
    tag = client.get(path)["ETag"]

    unchanged = client.get(path, **{"If-None-Match": tag})
    take(single_broker, 1, "simple")
    changed = client.get(path, **{"If-None-Match": tag})

    assert (unchanged.status_code, unchanged.content, changed.status_code) == (304, b"", 200)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_unknown_task_or_queue_is_not_found(client: ApiClient, single_broker: Broker, prefix: str) -> None:
    put(single_broker, "t1", queue="limited")
    responses = [client.get(f"{prefix}/{rest}") for rest in ("simple/tasks/t1", "nope/tasks/t1", "nope/tasks")]

    assert [response.status_code for response in responses] == [404, 404, 404]
    assert [problem(response)["code"] for response in responses] == [
        "task_not_found",
        "queue_not_found",
        "queue_not_found",
    ]


def test_a_key_of_one_queue_reads_no_other(client: ApiClient, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    limited = ApiClient(create_api_key(name="image", role=Role.CLIENT, queues=["image"]).plain)

    assert limited.get("/api/cli/queues/simple/tasks").status_code == 404
    assert limited.get("/api/cli/queues/simple/tasks/t1").status_code == 404
    assert limited.get("/api/cli/queues/image/tasks").status_code == 200


def test_a_task_can_be_created_at_the_command_lines_path(client: ApiClient, redis: redis_py.Redis) -> None:
    response = client.post("/api/cli/tasks", {"queue": "inference_high", "timeout": 300, "data": {"prompt": "x"}})

    info = json.loads(response.content)["info"]
    assert (response.status_code, info["queue"], info["state"]) == (200, "inference_high", "pending")
    assert redis.lrange(QueueKeys("inference_high").pending, 0, -1) == [info["id"].encode()]
    assert problem(client.post("/api/cli/tasks", {"queue": "nope", "data": {}}))["code"] == "queue_not_found"
    assert problem(client.post("/api/cli/tasks", {"queue": "off", "data": {}}))["code"] == "queue_disabled"
    assert problem(client.post("/api/cli/tasks", {"data": 1}))["status"] == 400
    assert ApiClient(WORKER_KEY).post("/api/cli/tasks", {"queue": "simple", "data": {}}).status_code == 403
    assert ApiClient(None).post("/api/cli/tasks", {"queue": "simple", "data": {}}).status_code == 401

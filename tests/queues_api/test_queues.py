"""Listing queues, looking at one, pausing and unpausing, under both paths."""

import json
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_py

from queues.models import Source
from queues.operations import save_queue
from runqy.accounts.identity import Role
from runqy.accounts.operations import create_api_key
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.heartbeats import beat
from runqy.broker.keys import QueueKeys
from runqy.broker.worker_records import WorkerRecord
from tests.api.client import ApiClient, problem
from tests.publication.support import away
from tests.queues.samples import spec
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.support.tasks import put, take
from tests.tasks.life import fail_for_good

PREFIXES = ("/api/cli/queues", "/api/queues")
READ_BY_CLIENTS = {
    "queue",
    "pending",
    "active",
    "scheduled",
    "retry",
    "archived",
    "completed",
    "paused",
    "memory_usage",
}
HIGH = QueueKeys("inference_high")


@pytest.fixture
def client(configuration: None, single_broker: Broker) -> ApiClient:
    """Return an administrator's client; one queue has tasks in several states, another only Redis knows."""
    save_queue(spec=spec("inference", "high:10", "low:3"), source=Source.API)
    save_queue(spec=spec("mail"), source=Source.API)
    put(single_broker, "t1", "t2", "t3", queue="inference_high")
    put(single_broker, "t4", queue="inference_high", process_at_s=single_broker.now_s() + 60)
    put(single_broker, "f1", queue="foreign")
    first, _ = take(single_broker, 2, "inference_high")
    fail_for_good(single_broker, first, "boom")
    return ApiClient()


def switches() -> list[tuple[str, str, str]]:
    """Return what the audit says of pausing: the action, the queue and who it was."""
    rows = AuditRecord.objects.filter(action__in=["queue.paused", "queue.unpaused"]).order_by("number")
    return [(row.action, row.object_name, row.actor_name) for row in rows]


def content(client: ApiClient, path: str) -> Any:
    """Return what is at a path."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.content
    return json.loads(answer.content)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_queues_are_listed_with_what_clients_read(client: ApiClient, prefix: str) -> None:
    found = content(client, prefix)

    assert [queue["queue"] for queue in found["queues"]] == ["inference_high", "inference_low", "mail", "foreign"]
    assert found["count"] == 4
    high, low, _, foreign = found["queues"]
    assert high.keys() >= READ_BY_CLIENTS
    assert [high[state] for state in ("pending", "active", "scheduled", "archived", "size")] == [1, 1, 1, 1, 4]
    assert (high["priority"], high["parent"], high["is_defined"]) == (10, "inference", True)
    assert (high["memory_usage"] > 0, low["memory_usage"]) == (True, 0)
    assert (foreign["pending"], foreign["is_defined"], foreign["priority"]) == (1, False, None)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["inference_high", "inference.high"])
def test_a_queue_is_shown_in_detail(client: ApiClient, single_broker: Broker, prefix: str, name: str) -> None:
    record = WorkerRecord(
        worker_id="w-1",
        host="h",
        pid=1,
        server_id="s",
        queue="inference",
        redis_queues={"inference_high": 10},
        started_at_s=1,
    )
    single_broker.run(beat(record, now_ns=single_broker.now_ns()))
    other = replace(record, worker_id="w-2", server_id="s2", redis_queues={"mail": 1})
    single_broker.run(beat(other, now_ns=single_broker.now_ns()))

    shown = content(client, f"{prefix}/{name}")

    assert shown.keys() >= READ_BY_CLIENTS
    assert (shown["queue"], shown["pending"], shown["paused"]) == ("inference_high", 1, False)
    assert (shown["processed_today"], shown["failed_today"], shown["processed"], shown["failed"]) == (1, 1, 1, 1)
    assert (shown["paused_by"], shown["paused_since"], shown["workers"]) == (None, None, ["w-1"])
    assert len(shown["history"]) == 10
    assert (shown["history"][0]["processed"], shown["history"][0]["failed"]) == (1, 1)
    assert shown["history"][1]["processed"] == 0


def test_it_is_told_how_long_the_oldest_task_has_waited(
    client: ApiClient, single_broker: Broker, redis: redis_py.Redis
) -> None:
    redis.hset(HIGH.task("t3"), "pending_since", single_broker.now_ns() - 90 * 10**9)

    assert 90 <= content(client, "/api/cli/queues/inference_high")["oldest_pending_secs"] < 100


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_paused_queue_says_by_whom_and_since_when(client: ApiClient, redis: redis_py.Redis, prefix: str) -> None:
    answer = client.post(f"{prefix}/inference.high/pause")

    assert json.loads(answer.content) == {"message": "queue paused", "queue": "inference_high", "paused": True}
    shown = content(client, f"{prefix}/inference_high")
    assert shown["paused"] is True
    assert shown["paused_by"] == switches()[0][2] != ""
    assert shown["paused_since"].endswith("Z")
    assert redis.get(HIGH.paused).isdigit()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_pausing_and_unpausing_twice_is_doing_it_once(client: ApiClient, redis: redis_py.Redis, prefix: str) -> None:
    paused = [client.post(f"{prefix}/mail/pause").status_code for _ in range(2)]
    unpaused = [client.post(f"{prefix}/mail/unpause") for _ in range(2)]

    assert paused == [200, 200]
    assert [answer.status_code for answer in unpaused] == [200, 200]
    assert json.loads(unpaused[0].content) == {"message": "queue unpaused", "queue": "mail", "paused": False}
    assert not redis.exists(QueueKeys("mail").paused)
    assert [switch[:2] for switch in switches()] == [("queue.paused", "mail"), ("queue.unpaused", "mail")]


def test_a_queue_that_only_redis_knows_can_be_paused_and_shown(client: ApiClient, redis: redis_py.Redis) -> None:
    assert client.post("/api/cli/queues/foreign/pause").status_code == 200
    assert redis.exists(QueueKeys("foreign").paused)
    assert content(client, "/api/cli/queues/foreign")["is_defined"] is False


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("rest", ["", "/pause", "/unpause"])
def test_an_unknown_queue_is_not_found_and_the_valid_names_are_told(client: ApiClient, prefix: str, rest: str) -> None:
    for name in ("nope.default", "inference"):
        path = f"{prefix}/{name}{rest}"
        answer = client.post(path) if rest else client.get(path)

        assert (answer.status_code, problem(answer)["code"]) == (404, "queue_not_found")
        assert "inference_high" in problem(answer)["detail"]


def test_a_key_of_one_queue_sees_no_other(client: ApiClient) -> None:
    limited = ApiClient(create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain)

    assert [queue["queue"] for queue in content(limited, "/api/queues")["queues"]] == ["mail"]
    assert limited.get("/api/queues/inference_high").status_code == 404
    assert limited.get("/api/queues/foreign").status_code == 404
    assert limited.post("/api/queues/inference_high/pause").status_code == 404
    assert limited.post("/api/queues/mail/pause").status_code == 200


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), (WORKER_KEY, 403), (CLIENT_KEY, 403)])
def test_only_administrators_get_here(
    client: ApiClient, redis: redis_py.Redis, prefix: str, key: str | None, status: int
) -> None:
    other = ApiClient(key)
    answers = [other.get(prefix), other.get(f"{prefix}/mail"), other.post(f"{prefix}/mail/pause")]
    answers.append(other.post(f"{prefix}/mail/unpause"))

    assert [answer.status_code for answer in answers] == [status] * 4
    assert not redis.exists(QueueKeys("mail").paused)


def test_the_other_paths_are_deprecated(client: ApiClient) -> None:
    answer = client.get("/api/queues/inference_high")

    assert answer["Deprecation"].startswith("@")
    assert answer["Link"] == '</api/cli/queues/inference_high>; rel="successor-version"'
    assert not client.get("/api/cli/queues/inference_high").has_header("Deprecation")


def test_without_redis_nobody_knows(client: ApiClient, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    answers = [client.get("/api/cli/queues"), client.post("/api/cli/queues/mail/pause")]

    assert [(answer.status_code, problem(answer)["code"]) for answer in answers] == [(503, "broker_unavailable")] * 2
    assert switches() == []

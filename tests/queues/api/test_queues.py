"""Listing, reading, pausing and unpausing queues, under both paths."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_py
from django.db import OperationalError, connection
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import disable_queue, save_queue
from queues.pausing import pause_queue
from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance
from runqy.broker.keys import QueueKeys
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.core.api_keys import Role
from tests.api.client import ApiClient, content, problem
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.environment import CLIENT_KEY
from tests.support.tasks import put, take
from tests.tasks.task_helpers import fail_for_good

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
def client(stopped_clock: None, configuration: None, single_broker: Broker) -> ApiClient:
    """Return an administrator's client; one queue has tasks in several states, another exists only in Redis."""
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put(single_broker, "t1", "t2", "t3", queue="inference_high")
    put(single_broker, "t4", queue="inference_high", process_at_s=single_broker.now_s() + 60)
    put(single_broker, "f1", queue="foreign")
    first, _ = take(single_broker, 2, "inference_high")
    fail_for_good(single_broker, first, "boom")
    return ApiClient()


def switches() -> list[tuple[str, str, str]]:
    """Return the audit records of pauses: action, queue and actor."""
    rows = audit_records().filter(action__in=["queue.paused", "queue.unpaused"]).order_by("number")
    return [(row.action, row.object_name, row.actor_name) for row in rows]


def test_demand_is_shown_to_metrics_and_to_clients_of_the_queue(client: ApiClient) -> None:
    monitoring = create_api_key(name="keda", role=Role.METRICS)
    other = create_api_key(name="shop", role=Role.CLIENT, queues=["mail"])
    path = "/api/cli/queues/inference/demand"

    found, own = content(ApiClient(monitoring.plain), f"{path}?target_wait=2m"), content(ApiClient(CLIENT_KEY), path)
    refused = [
        ApiClient(other.plain).get(path),
        ApiClient(None).get(path),
        client.get(f"{path}?target_wait=0"),
        client.get(f"{path}?target_wait=soon"),
    ]

    assert found.pop("oldest_pending_s") >= 0
    assert found == {
        "queue": "inference",
        "pending": 1,
        "active": 1,
        "scheduled_due": 0,
        "demand": 2,
        "workers": 0,
        "slots": 0,
        "slots_per_worker": None,
        "arrival_per_s": None,
        "mean_run_s": None,
        "target_wait_s": 120.0,
        "desired_workers": 1,
        "reason": "no_worker",
    }
    assert own | {"target_wait_s": 120.0} == found | {"oldest_pending_s": own["oldest_pending_s"]}
    assert [response.status_code for response in refused] == [404, 401, 400, 400]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_queues_are_listed_with_the_members_that_clients_read(client: ApiClient, prefix: str) -> None:
    found = content(client, prefix)

    assert [queue["queue"] for queue in found["queues"]] == ["inference_high", "inference_low", "mail", "foreign"]
    assert found["count"] == 4
    high, low, _, foreign = found["queues"]
    assert high.keys() >= READ_BY_CLIENTS
    assert [high[state] for state in ("pending", "active", "scheduled", "archived", "size")] == [1, 1, 1, 1, 4]
    assert (high["priority"], high["parent"], high["is_defined"]) == (10, "inference", True)
    assert (high["memory_usage"] > 0, low["memory_usage"]) == (True, 0)
    assert (foreign["pending"], foreign["is_defined"], foreign["priority"]) == (1, False, None)


def test_a_queue_tells_its_health_also_without_the_database(
    client: ApiClient, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_health() -> dict[str, list[str]]:
        return {queue["queue"]: queue["health"] for queue in content(client, PREFIXES[0])["queues"]}

    assert read_health()["mail"] == ["unknown"]  # no maintenance runs

    single_broker.run(report_maintenance(now_s=single_broker.now_s()))
    finding = Finding(kind=AlertKind.NO_READY_WORKER, subject="inference", queue="inference", message="No worker.")
    store_findings([finding], now=timezone.now() - timedelta(minutes=2))
    pause_queue(single_broker, name="inference_low")
    disable_queue(name="mail")

    assert read_health() == {
        "inference_high": ["no worker"],
        "inference_low": ["no worker", "paused"],
        "mail": ["disabled"],
        "foreign": ["undefined"],
    }

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(connection, "cursor", fail)
        without_database = read_health()
    assert without_database["inference_low"] == ["unknown", "paused"]


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
        state=WorkerState.READY,
        started_at_s=1,
    )
    single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))
    other = replace(record, worker_id="w-2", server_id="s2", redis_queues={"mail": 1})
    single_broker.run(write_heartbeat(other, now_ns=single_broker.now_ns()))

    body = content(client, f"{prefix}/{name}")

    assert body.keys() >= READ_BY_CLIENTS
    assert (body["queue"], body["pending"], body["paused"]) == ("inference_high", 1, False)
    assert (body["processed_today"], body["failed_today"], body["processed"], body["failed"]) == (1, 1, 1, 1)
    assert (body["paused_by"], body["paused_since"], body["workers"]) == (None, None, ["w-1"])
    assert body["worker_processes"] == {"ready": 1, "not_ready": 0, "disconnected": 0}
    assert len(body["history"]) == 10
    assert (body["history"][0]["processed"], body["history"][0]["failed"]) == (1, 1)
    assert body["history"][1]["processed"] == 0


def test_the_list_counts_the_worker_processes_of_each_queue(client: ApiClient, single_broker: Broker) -> None:
    serves = {"a": {"inference_high": 10, "inference_low": 3}, "b": {"mail": 1}, "c": {"mail": 1}}
    states = {"a": WorkerState.READY, "b": WorkerState.START_FAILED, "c": WorkerState.READY}
    for name, redis_queues in serves.items():
        record = WorkerRecord(
            worker_id=name,
            host="h",
            pid=2 if name == "c" else 1,
            server_id=name,
            queue="q",
            redis_queues=redis_queues,
            state=states[name],
            started_at_s=1,
        )
        single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))

    found = content(client, "/api/cli/queues")["queues"]

    counts = [(queue["worker_processes"]["ready"], queue["worker_processes"]["not_ready"]) for queue in found]
    assert counts == [(1, 0), (1, 0), (1, 1), (0, 0)]


def test_the_age_of_the_oldest_pending_task_is_returned(
    client: ApiClient, single_broker: Broker, redis: redis_py.Redis
) -> None:
    redis.hset(HIGH.task("t3"), "pending_since", single_broker.now_ns() - 90 * 10**9)

    assert 90 <= content(client, "/api/cli/queues/inference_high")["oldest_pending_secs"] < 100


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_paused_queue_has_the_actor_and_time_of_the_pause(
    client: ApiClient, redis: redis_py.Redis, prefix: str
) -> None:
    response = client.post(f"{prefix}/inference.high/pause")

    assert json.loads(response.content) == {"message": "queue paused", "queue": "inference_high", "paused": True}
    body = content(client, f"{prefix}/inference_high")
    assert body["paused"] is True
    assert body["paused_by"] == switches()[0][2] != ""
    assert body["paused_since"].endswith("Z")
    assert redis.get(HIGH.paused).isdigit()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_pausing_and_unpausing_are_idempotent(client: ApiClient, redis: redis_py.Redis, prefix: str) -> None:
    paused = [client.post(f"{prefix}/mail/pause").status_code for _ in range(2)]
    unpaused = [client.post(f"{prefix}/mail/unpause") for _ in range(2)]

    assert paused == [200, 200]
    assert [response.status_code for response in unpaused] == [200, 200]
    assert json.loads(unpaused[0].content) == {"message": "queue unpaused", "queue": "mail", "paused": False}
    assert not redis.exists(QueueKeys("mail").paused)
    assert [switch[:2] for switch in switches()] == [("queue.paused", "mail"), ("queue.unpaused", "mail")]


def test_a_queue_that_exists_only_in_redis_can_be_paused_and_read(client: ApiClient, redis: redis_py.Redis) -> None:
    assert client.post("/api/cli/queues/foreign/pause").status_code == 200
    assert redis.exists(QueueKeys("foreign").paused)
    assert content(client, "/api/cli/queues/foreign")["is_defined"] is False


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("rest", ["", "/pause", "/unpause"])
def test_an_unknown_queue_is_not_found_and_the_error_lists_valid_names(
    client: ApiClient, prefix: str, rest: str
) -> None:
    for name in ("nope.default", "inference"):
        path = f"{prefix}/{name}{rest}"
        response = client.post(path) if rest else client.get(path)

        assert (response.status_code, problem(response)["code"]) == (404, "queue_not_found")
        assert "inference_high" in problem(response)["detail"]


def test_a_limited_key_sees_only_its_queue(client: ApiClient) -> None:
    limited = ApiClient(create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain)

    assert [queue["queue"] for queue in content(limited, "/api/queues")["queues"]] == ["mail"]
    assert limited.get("/api/queues/inference_high").status_code == 404
    assert limited.get("/api/queues/foreign").status_code == 404
    assert limited.post("/api/queues/inference_high/pause").status_code == 404
    assert limited.post("/api/queues/mail/pause").status_code == 200


def test_the_other_paths_are_deprecated(client: ApiClient) -> None:
    response = client.get("/api/queues/inference_high")

    assert response["Deprecation"].startswith("@")
    assert response["Link"] == '</api/cli/queues/inference_high>; rel="successor-version"'
    assert not client.get("/api/cli/queues/inference_high").has_header("Deprecation")


def test_without_redis_queues_are_unavailable(client: ApiClient, settings: Any) -> None:
    present, settings.REDIS_TARGET = settings.REDIS_TARGET, away()

    responses = [client.get("/api/cli/queues"), client.post("/api/cli/queues/mail/pause")]

    settings.REDIS_TARGET = present
    assert [(response.status_code, problem(response)["code"]) for response in responses] == [
        (503, "broker_unavailable")
    ] * 2
    assert switches() == []


def test_a_queue_is_disabled_and_enabled_by_any_of_its_names(client: ApiClient) -> None:
    disabled = [client.post(f"/api/cli/queues/{name}/disable") for name in ("inference_high", "inference")]

    assert [json.loads(response.content) for response in disabled] == [
        {"message": "queue disabled", "queue": "inference", "is_enabled": False, "published": True}
    ] * 2
    refused = client.post("/queue/add", {"queue": "inference.low", "data": {}})
    assert (refused.status_code, problem(refused)["code"]) == (409, "queue_disabled")
    assert client.post("/api/cli/queues/inference/enable").status_code == 200
    assert client.post("/queue/add", {"queue": "inference.low", "data": {}}).status_code == 200
    changes = audit_records().filter(action="queue.updated").order_by("number").values_list("changes", flat=True)
    assert [json.loads(change)["is_enabled"]["new"] for change in changes] == [False, True]


def test_enabling_refuses_unknown_queues_bodies_and_other_keys(client: ApiClient) -> None:
    limited = ApiClient(create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain)
    path = "/api/cli/queues/{}/disable"

    assert client.post(path.format("foreign")).status_code == 404
    assert limited.post(path.format("inference")).status_code == 404
    assert limited.post(path.format("mail")).status_code == 200
    assert client.post(path.format("mail"), {"force": True}).status_code == 400
    assert ApiClient(CLIENT_KEY).post(path.format("mail")).status_code == 403
    assert ApiClient(None).post(path.format("mail")).status_code == 401

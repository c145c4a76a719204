"""Listing workers and showing one, under both paths."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import OperationalError

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.broker.workers.heartbeats import deregister, write_heartbeat
from runqy.broker.workers.records import LOST_AFTER_S, LOST_TTL_S, RunningTask, WorkerRecord, WorkerState
from runqy.core.api_keys import Role
from runqy.core.formats.timestamps import format_s
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, content, problem
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.support.environment import WORKER_KEY
from tests.support.redis_client import redis_of
from workers import queries

RECORD = WorkerRecord(
    worker_id="worker:1",
    host="gpu-1",
    pid=7,
    server_id="s",
    queue="inference",
    redis_queues={"inference_low": 3, "inference_high": 10},
    concurrency=2,
    processes=2,
    state=WorkerState.READY,
    commit="8b1c0de",
    commit_subject="Read larger images",
    started_at_s=1_700_000_000,
    last_take_s=1_700_000_100,
    version="0.1",
)
PATHS = ("/api/cli/workers", "/workers")


def running(task_id: str, started_ns: int) -> RunningTask:
    """Return a running task of a worker."""
    return RunningTask(
        task_id=task_id,
        redis_queue="inference_high",
        task_type="inference_high",
        payload=b'{"token":"secret"}',
        started_ns=started_ns,
        deadline_s=1_700_000_060,
    )


@pytest.fixture
def client(configuration: None) -> ApiClient:
    """Return an administrator's client; one worker runs two tasks, another is Go's."""
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    save_queue(spec=spec("mail"), source=QueueSource.API)
    broker = get_broker()
    tasks = [running("t2", 1_700_000_002_500_000_000), running("t1", 1_700_000_001_000_000_000)]
    broker.run(write_heartbeat(RECORD, tasks, now_ns=broker.now_ns()))
    redis_of(broker).zadd(keys.WORKERS, {"vm:17767": broker.now_s()})
    redis_of(broker).hset(
        keys.go_worker("vm:17767"),
        mapping={
            "worker_id": "vm:17767",
            "started_at": 1795564380,
            "last_beat": broker.now_s(),
            "concurrency": 2,
            "queues": "map[mail:5]",
            "status": "running",
            "healthy": 1,
        },
    )
    return ApiClient()


@pytest.mark.parametrize("path", PATHS)
def test_workers_are_listed_by_id(client: ApiClient, path: str) -> None:
    found = content(client, path)

    assert found["count"] == 2
    assert found["processes"] == {"ready": 2, "not_ready": 0, "disconnected": 0}
    assert [worker["worker_id"] for worker in found["workers"]] == ["vm:17767", "worker:1"]


@pytest.mark.parametrize("path", PATHS)
def test_a_worker_is_shown_with_all_that_it_reports(client: ApiClient, path: str) -> None:
    body = content(client, f"{path}/worker:1")

    assert abs(body.pop("last_beat") - get_broker().now_s()) <= 60
    assert body == {
        "worker_id": "worker:1",
        "started_at": 1_700_000_000,
        "concurrency": 2,
        "queues": "map[inference_high:10 inference_low:3]",
        "status": "ready",
        "is_stale": False,
        "state": "ready",
        "reason": "",
        "disconnected_since": None,
        "queue": "inference",
        "redis_queues": {"inference_high": 10, "inference_low": 3},
        "processes": 2,
        "running": [
            {
                "task_id": "t1",
                "queue": "inference_high",
                "started_at": "2023-11-14T22:13:21Z",
                "deadline": "2023-11-14T22:14:20Z",
            },
            {
                "task_id": "t2",
                "queue": "inference_high",
                "started_at": "2023-11-14T22:13:22.500000Z",
                "deadline": "2023-11-14T22:14:20Z",
            },
        ],
        "held": [],
        "last_take_at": "2023-11-14T22:15:00Z",
        "commit": "8b1c0de",
        "commit_subject": "Read larger images",
        "commit_author": None,
        "committed_at": None,
        "version": "0.1",
        "host": "gpu-1",
        "pid": 7,
        "is_foreign": False,
    }


def test_a_running_task_without_a_deadline_has_none(client: ApiClient) -> None:
    broker = get_broker()
    broker.run(write_heartbeat(RECORD, [replace(running("t3", 1), deadline_s=0)], now_ns=broker.now_ns()))

    body = content(client, "/api/cli/workers/worker:1")["running"]

    assert [(task["task_id"], task["deadline"]) for task in body] == [("t3", None)]


@pytest.mark.parametrize("rest", ["", "/worker:1"])
def test_an_alias_is_deprecated_and_links_to_the_path_that_replaces_it(client: ApiClient, rest: str) -> None:
    old, new = client.get(f"/workers{rest}"), client.get(f"/api/cli/workers{rest}")

    assert old.content == new.content
    assert old["Link"] == f'</api/cli/workers{rest}>; rel="successor-version"'
    assert old.has_header("Deprecation")
    assert not new.has_header("Deprecation")


def test_a_go_worker_is_shown_with_what_it_reports(client: ApiClient) -> None:
    body = content(client, "/api/cli/workers/vm:17767")

    assert (body["queues"], body["status"], body["is_foreign"]) == ("map[mail:5]", "running", True)
    assert (body["started_at"], body["concurrency"], body["running"]) == (1795564380, 2, [])
    assert (body["commit"], body["last_take_at"]) == (None, None)


def test_a_worker_that_is_silent_is_disconnected_since_its_last_heartbeat(client: ApiClient) -> None:
    broker = get_broker()
    last_beat_s = broker.now_s() - 20
    broker.run(write_heartbeat(RECORD, now_ns=last_beat_s * 10**9))

    body = content(client, "/api/cli/workers/worker:1")

    assert (body["is_stale"], body["state"], body["status"]) == (True, "disconnected", "disconnected")
    assert body["disconnected_since"] == format_s(last_beat_s)
    assert body["reason"] == (
        "It ended without notice or cannot reach Redis: no heartbeat has reached Redis since "
        f"{format_s(last_beat_s)}. Its last state was ready."
    )


def test_a_worker_is_lost_a_minute_after_its_last_heartbeat_and_listed_for_a_day(client: ApiClient) -> None:
    broker = get_broker()
    last_beat_s = broker.now_s() - LOST_AFTER_S - 5
    broker.run(write_heartbeat(replace(RECORD, reason="old code runs"), now_ns=last_beat_s * 10**9))
    broker.run(write_heartbeat(replace(RECORD, worker_id="other"), now_ns=(last_beat_s + 1) * 10**9))
    broker.run(deregister(replace(RECORD, worker_id="other"), now_ns=broker.now_ns()))

    found = content(client, "/api/cli/workers")
    (lost,) = found["lost"]

    assert (found["count"], found["processes"]["disconnected"]) == (1, 0)
    assert (lost["worker_id"], lost["state"], lost["is_stale"]) == ("worker:1", "lost", True)
    assert (lost["host"], lost["commit"], lost["last_beat"]) == ("gpu-1", "8b1c0de", last_beat_s)
    assert lost["disconnected_since"] == format_s(last_beat_s)
    assert lost["reason"].endswith("Its last state was ready: old code runs")
    assert content(client, "/api/cli/workers/worker:1") == lost
    assert redis_of(broker).ttl(keys.worker_record("worker:1")) > LOST_TTL_S - 600

    broker.run(write_heartbeat(RECORD, now_ns=broker.now_ns()))  # it was only cut off

    assert (content(client, "/workers")["count"], content(client, "/workers")["lost"]) == (2, [])


def test_a_lost_worker_needs_no_database_to_be_listed(client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = get_broker()
    broker.run(write_heartbeat(RECORD, [running("t1", 1)], now_ns=(broker.now_s() - 2 * LOST_AFTER_S) * 10**9))
    monkeypatch.setattr(queries, "list_lost_runs", Mock(side_effect=OperationalError))
    monkeypatch.setattr(queries, "find_last_ends", Mock(side_effect=OperationalError))

    (lost,) = content(client, "/api/cli/workers")["lost"]

    assert (lost["state"], lost["held"]) == ("lost", [])  # in which of its two queues t1 was is unknown


def test_a_worker_that_registers_without_heartbeats_is_listed_as_cut_off_from_redis(client: ApiClient) -> None:
    broker = get_broker()
    broker.run(write_heartbeat(RECORD, now_ns=(broker.now_s() - 20) * 10**9))

    body = {"worker_id": "worker:1", "queue": "inference"}
    assert client.post("/worker/register", body, key=WORKER_KEY).status_code == 200

    body = content(client, "/api/cli/workers/worker:1")
    assert body["reason"].startswith("It cannot reach Redis: ")
    assert "but it registered over HTTP at " in body["reason"]
    assert redis_of(broker).zscore(keys.WORKER_RECORDS, "worker:1") > broker.now_s() + LOST_AFTER_S


def test_a_heartbeat_ends_the_longer_life_of_a_disconnected_workers_record(client: ApiClient) -> None:
    broker = get_broker()
    broker.run(write_heartbeat(RECORD, now_ns=(broker.now_s() - 20) * 10**9))
    client.post("/worker/register", {"worker_id": "worker:1", "queue": "inference"}, key=WORKER_KEY)

    broker.run(write_heartbeat(RECORD, now_ns=broker.now_ns()))

    assert content(client, "/api/cli/workers/worker:1")["state"] == "ready"
    assert redis_of(broker).zscore(keys.WORKER_RECORDS, "worker:1") <= broker.now_s() + LOST_AFTER_S


def test_invalid_running_tasks_are_left_out(client: ApiClient) -> None:
    redis_of(get_broker()).hset(keys.workers("gpu-1", 7, "s"), "t3", b"\xff")

    assert [task["task_id"] for task in content(client, "/workers/worker:1")["running"]] == ["t1", "t2"]


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_worker_is_not_found(client: ApiClient, path: str) -> None:
    response = client.get(f"{path}/nope")

    assert (response.status_code, problem(response)["code"]) == (404, "worker_not_found")


def test_a_key_of_one_queue_sees_its_workers_only(client: ApiClient) -> None:
    key = create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain
    limited = ApiClient(key)

    assert [worker["worker_id"] for worker in content(limited, "/workers")["workers"]] == ["vm:17767"]
    assert limited.get("/workers/worker:1").status_code == 404
    assert limited.get("/workers/vm:17767").status_code == 200


def test_a_key_of_one_queue_sees_nothing_of_other_queues_of_its_workers(client: ApiClient) -> None:
    broker = get_broker()
    redis_of(broker).hset(keys.go_worker("vm:17767"), "queues", "map[inference_high:9 mail:5]")
    both = replace(RECORD, worker_id="worker:2", redis_queues={"mail": 1, "inference_high": 2})
    broker.run(write_heartbeat(both, [running("t1", 1_700_000_001_000_000_000)], now_ns=broker.now_ns()))
    limited = ApiClient(create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain)

    listed = content(limited, "/workers")["workers"]

    assert [worker["worker_id"] for worker in listed] == ["vm:17767", "worker:2"]
    assert {(worker["queue"], worker["queues"], *worker["redis_queues"]) for worker in listed} == {
        ("mail", "map[mail:5]", "mail"),
        ("mail", "map[mail:1]", "mail"),
    }
    assert [worker["running"] for worker in listed] == [[], []]


def test_without_redis_workers_are_unavailable(client: ApiClient, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    response = client.get("/api/cli/workers")

    assert (response.status_code, problem(response)["code"]) == (503, "broker_unavailable")


def test_a_worker_of_an_older_registration_is_listed_once(client: ApiClient) -> None:
    broker = get_broker()
    broker.run(write_heartbeat(replace(RECORD, server_id="s2", state=WorkerState.DRAINING), now_ns=broker.now_ns()))

    found = [worker for worker in content(client, "/workers")["workers"] if worker["worker_id"] == "worker:1"]

    assert [worker["state"] for worker in found] == ["draining"]

"""Asking workers to drain, to restart their children, and to stop."""

import json
from dataclasses import replace

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.broker import keys
from runqy.broker.workers.heartbeats import write_heartbeat, write_refusal
from runqy.broker.workers.records import LOST_AFTER_S, WorkerAction, WorkerRecord, read_requests
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.support import workers
from tests.support.audit import audit_records
from tests.support.environment import WORKER_KEY
from tests.support.redis_client import redis_of

RECORD = replace(workers.RECORD, worker_id="w-1", queue="mail", redis_queues={"mail": 1})
OTHER = replace(RECORD, worker_id="w-2", server_id="s2", queue="image", redis_queues={"image": 1})
"""The same process's worker of another queue."""


def appear(*records: WorkerRecord, ago_s: int = 0) -> None:
    broker = get_broker()
    for record in records:
        broker.run(write_heartbeat(record, now_ns=broker.now_ns() - ago_s * 10**9))


@pytest.fixture
def client(configuration: None) -> ApiClient:
    for name in ("mail", "image"):
        save_queue(spec=spec(name), source=QueueSource.API)
    return ApiClient()


@pytest.mark.parametrize(
    ("action", "concerned"), [("drain", ["w-1", "w-2"]), ("restart", ["w-1"]), ("stop", ["w-1", "w-2"])]
)
def test_a_worker_is_asked_and_the_response_names_all_of_its_process(
    client: ApiClient, action: str, concerned: list[str]
) -> None:
    appear(RECORD, OTHER, replace(RECORD, worker_id="w-3", pid=8, server_id="s3"))

    response = client.post(f"/api/cli/workers/w-1/{action}")

    assert (response.status_code, json.loads(response.content)) == (
        200,
        {"message": f"{action} requested", "worker_id": "w-1", "workers": concerned, "is_connected": True},
    )
    assert {*get_broker().run(read_requests("w-1"))} == {WorkerAction(action)}
    assert get_broker().run(read_requests("w-2")) == {}
    record = audit_records().latest("number")
    assert (record.action, record.object_name) == (f"worker.{action}_requested", "w-1")


def test_requests_for_several_actions_do_not_replace_each_other(client: ApiClient) -> None:
    appear(RECORD)

    client.post("/api/cli/workers/w-1/drain")
    client.post("/api/cli/workers/w-1/restart")
    first = get_broker().run(read_requests("w-1"))
    client.post("/api/cli/workers/w-1/restart")
    second = get_broker().run(read_requests("w-1"))

    assert first[WorkerAction.DRAIN] == second[WorkerAction.DRAIN]
    assert first[WorkerAction.RESTART] != second[WorkerAction.RESTART]


def test_a_disconnected_worker_is_asked_for_when_it_is_back(client: ApiClient) -> None:
    appear(RECORD, ago_s=20)

    assert json.loads(client.post("/api/cli/workers/w-1/drain").content)["is_connected"] is False


def test_workers_that_read_no_requests_are_refused(client: ApiClient) -> None:
    broker = get_broker()
    appear(RECORD, ago_s=LOST_AFTER_S + 5)
    broker.run(write_refusal(broker, "refused", queue="mail", reason="no vault"))
    redis_of(broker).zadd(keys.WORKERS, {"vm:17": broker.now_s()})
    go = {"worker_id": "vm:17", "queues": "map[mail:5]", "last_beat": broker.now_s()}
    redis_of(broker).hset(keys.go_worker("vm:17"), mapping=go)

    refusals = {worker: client.post(f"/api/cli/workers/{worker}/stop") for worker in ("w-1", "refused", "vm:17")}

    assert {(each.status_code, problem(each)["code"]) for each in refusals.values()} == {(409, "worker_unreachable")}
    assert problem(refusals["w-1"])["detail"].startswith("It is lost")
    assert "registration" in problem(refusals["refused"])["detail"]
    assert problem(refusals["vm:17"])["detail"] == (
        "Go's runqy-worker reads no requests. Send SIGTERM to process 17 on its host."
    )
    assert not audit_records().filter(action__startswith="worker.").exists()


def test_a_key_of_one_queue_ends_no_process_that_serves_others(client: ApiClient) -> None:
    limited = ApiClient(create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain)
    appear(RECORD, replace(OTHER, worker_id="w-4", pid=8))
    assert limited.post("/api/cli/workers/w-1/drain").status_code == 200
    assert limited.post("/api/cli/workers/w-4/drain").status_code == 404

    appear(OTHER)

    response = limited.post("/api/cli/workers/w-1/stop")
    assert (response.status_code, problem(response)["code"]) == (403, "forbidden")
    assert limited.post("/api/cli/workers/w-1/restart").status_code == 200


def test_wrong_requests_are_refused(client: ApiClient) -> None:
    appear(RECORD)

    found = {
        "unknown": client.post("/api/cli/workers/nope/drain").status_code,
        "body": client.post("/api/cli/workers/w-1/drain", {"force": True}).status_code,
        "role": ApiClient(WORKER_KEY).post("/api/cli/workers/w-1/drain").status_code,
        "action": client.post("/api/cli/workers/w-1/kill").status_code,
    }

    assert found == {"unknown": 404, "body": 400, "role": 403, "action": 404}
    assert get_broker().run(read_requests("w-1")) == {}

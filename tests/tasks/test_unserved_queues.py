"""Responses to enqueueing say that no worker serves the queue, and that nobody may be told of an end."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.memory import MemoryUse
from runqy.broker.workers.claims import claim_worker_id
from runqy.broker.workers.heartbeats import write_heartbeat
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY
from tests.support.workers import RECORD
from workers.duties import ServedQueues

WARNING = "No worker serves the queue simple: its tasks wait until one does."


@pytest.fixture
def fresh(
    configuration: None, each_plane: str, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ApiClient]:
    """Return a client of a server that reads with each request what maintenance stored."""
    monkeypatch.setattr(MemoryUse, "CHECK_INTERVAL_S", float("-inf"))  # no test waits for a second
    store_queues(spec("simple"))
    client = ApiClient(CLIENT_KEY)
    yield client
    redis.flushall()
    client.post("/queue/add", {"queue": "simple", "data": {}})  # so that the next test's responses have no warning


def add(client: ApiClient) -> list[dict[str, Any]]:
    """Enqueue a task, one with a unique key, and a batch; return the responses."""
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/queue/add", {"data": {}}),
        ("/queue/add", {"data": {}, "unique_key": "u", "on_conflict": "return"}),
        ("/queue/add-batch", {"jobs": [{"data": {}}]}),
    ]
    return [json.loads(client.post(path, {"queue": "simple", **body}).content) for path, body in bodies]


def test_a_queue_without_a_worker_is_a_warning_until_it_has_one(fresh: ApiClient, single_broker: Broker) -> None:
    unknown = add(fresh)
    ServedQueues().run_tick(single_broker)
    unserved = add(fresh)
    worker = replace(RECORD, queue="simple", redis_queues={"simple": 1})
    claim = claim_worker_id(single_broker, worker.worker_id, owner="o", queue="simple", redis_queues=["simple"])
    single_broker.run(claim)
    single_broker.run(write_heartbeat(worker, now_ns=single_broker.now_ns()))
    ServedQueues().run_tick(single_broker)

    served = add(fresh)

    assert [response["warnings"] for response in unserved] == [[WARNING]] * 3
    assert [response.keys() & {"warnings"} for response in unknown + served] == [set()] * 6


def test_a_webhook_of_a_task_that_a_go_worker_deletes_is_a_warning(
    fresh: ApiClient, single_broker: Broker, redis: redis_py.Redis
) -> None:
    own, deleting = {"webhook_hosts": ("hooks.example.com",)}, replace(spec("any").deployment, redis_storage=False)
    store_queues(spec("kept", **own), spec("deleted", deployment=deleting, **own))
    now_s = single_broker.now_s()
    redis.zadd(keys.WORKERS, {"vm:17": now_s + 60})
    fields = {"worker_id": "vm:17", "queues": "map[deleted:5 kept:5]", "last_beat": now_s}
    redis.hset(keys.go_worker("vm:17"), mapping=fields)
    ServedQueues().run_tick(single_broker)
    webhook = {"webhook": {"url": "https://hooks.example.com/a", "events": ["task.completed"]}}

    found = [
        json.loads(fresh.post(path, {"queue": queue, **body}).content).get("warnings")
        for queue, own in (("deleted", webhook), ("deleted", {}), ("kept", webhook))
        for path, body in (("/queue/add", {"data": {}, **own}), ("/queue/add-batch", {"jobs": [{"data": {}, **own}]}))
    ]

    untold = ["Ends of tasks in the queue deleted that Go's workers run are not told: its redis_storage is false."]
    assert found == [untold, untold, None, None, None, None]


def test_a_repeated_response_has_no_warning(fresh: ApiClient, single_broker: Broker) -> None:
    ServedQueues().run_tick(single_broker)
    body = {"queue": "simple", "data": {}}

    responses = [fresh.post("/queue/add", body, **{"Idempotency-Key": "k"}) for _ in range(2)]

    assert ["warnings" in json.loads(response.content) for response in responses] == [True, False]

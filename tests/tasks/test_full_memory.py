"""Above 97 % of Redis's memory no tasks are accepted and everything else works; still in one round trip."""

import json
from collections.abc import Iterator

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.memory import MemoryUse, send_with_memory_check
from runqy.broker.tasks.enqueue import enqueue
from runqy.errors import BrokerFull
from tests.api.client import ApiClient, problem
from tests.support.full_redis import FILLER_BYTES, filled_redis
from tests.support.redis_client import redis_of
from tests.support.tasks import new_task
from tests.support.waiting import wait_until


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the memory with each request, so that no test waits for a second."""
    monkeypatch.setattr(MemoryUse, "CHECK_INTERVAL_S", float("-inf"))


@pytest.fixture
def nearly_full(client: ApiClient, redis: redis_py.Redis, always_looks: None) -> Iterator[None]:
    """Leave Redis two percent of its memory."""
    with filled_redis(redis, use=0.98):
        client.post("/queue/add", {"queue": "simple", "data": {}})  # looks
        yield
    client.post("/queue/add", {"queue": "simple", "data": {}})  # looks again, so that the next test may add tasks


@pytest.mark.usefixtures("nearly_full")
@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}, {"jobs": [{}]}])
def test_a_full_redis_refuses_tasks_with_retry_after(client: ApiClient, options: dict[str, object]) -> None:
    path = "/queue/add-batch" if "jobs" in options else "/queue/add"
    body = {"queue": "simple", **({} if "jobs" in options else {"data": {}}), **options}

    response = client.post(path, body)

    assert (response.status_code, problem(response)["code"]) == (503, "broker_full")
    assert int(response["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/queue/add", "/queue/add-batch"])
def test_a_repetition_gets_the_response_of_the_first_request(
    *, client: ApiClient, always_looks: None, path: str, request: pytest.FixtureRequest
) -> None:
    body = {"queue": "simple", **({"jobs": [{}]} if path.endswith("batch") else {"data": {}})}
    header = {"Idempotency-Key": "once"}
    first = client.post(path, body, **header)
    request.getfixturevalue("nearly_full")

    repeated = client.post(path, body, **header)

    assert (repeated.status_code, repeated.content) == (200, first.content)
    assert repeated["Idempotent-Replayed"] == "true"


def test_large_tasks_leave_room_for_small_ones(client: ApiClient, redis: redis_py.Redis, always_looks: None) -> None:
    with filled_redis(redis, use=0.85):
        client.post("/queue/add", {"queue": "simple", "data": {}})  # looks
        refused = client.post("/queue/add", {"queue": "simple", "data": {"x": "x" * 2_000_000}})
        accepted = client.post("/queue/add", {"queue": "simple", "data": {}})
    client.post("/queue/add", {"queue": "simple", "data": {}})  # looks again for the next test

    assert (refused.status_code, problem(refused)["code"], accepted.status_code) == (503, "broker_full", 200)
    assert "no room for 2,000,009 bytes" in problem(refused)["detail"]


@pytest.mark.usefixtures("nearly_full")
def test_scripts_of_the_control_plane_still_write(client: ApiClient) -> None:
    assert ApiClient().post("/api/cli/queues/simple/pause").status_code == 200


@pytest.mark.usefixtures("nearly_full")
def test_tasks_are_accepted_again_once_there_is_memory(client: ApiClient, redis: redis_py.Redis) -> None:
    redis.config_set("maxmemory", 0)

    response = client.post("/queue/add", {"queue": "simple", "data": {}})

    assert response.status_code == 200, json.loads(response.content)


@pytest.mark.cluster
def test_in_a_cluster_only_queues_of_the_full_server_are_refused(cluster_broker: Broker, always_looks: None) -> None:
    def add(task_id: str, queue: str) -> None:
        request = enqueue(new_task(task_id, queue), now_ns=cluster_broker.now_ns())
        cluster_broker.run(send_with_memory_check(cluster_broker, request, queue=queue, size_bytes=2))

    client = redis_of(cluster_broker)
    queues = {client.get_node_from_key(f"asynq:{{q{n}}}:pending").name: f"q{n}" for n in range(50)}  # type: ignore[union-attr]
    full, *others = queues.items()
    node = client.get_node(node_name=full[0])
    wait_until(lambda: client.info("memory", target_nodes=node)["lazyfree_pending_objects"] == 0)
    client.setrange(f"asynq:{{{full[1]}}}:filler", FILLER_BYTES, b"x")
    used = client.info("memory", target_nodes=node)["used_memory"]
    client.config_set("maxmemory", int(used / 0.98), target_nodes=node)
    try:
        add("t0", full[1])  # looks
        with pytest.raises(BrokerFull):
            add("t1", full[1])
        for _, queue in others:
            add(f"{queue}-1", queue)
            add(f"{queue}-2", queue)
    finally:
        client.config_set("maxmemory", 0, target_nodes=node)

"""Above 97 % of Redis's memory no tasks are added, and everything else goes on; in one round trip, as always."""

import json
from collections.abc import Iterator

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.enqueue import enqueue
from runqy.broker.memory import ask_to_add
from runqy.broker.operation import MemoryUse
from runqy.errors import BrokerFull
from tests.api.client import ApiClient, problem
from tests.support.tasks import new_task

FILLER = b"x" * (8 << 20)
"""So much that the last two percent are more than what a test or a connection needs."""


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the memory with each request, so that no test waits for a second."""
    monkeypatch.setattr(MemoryUse, "LOOK_EVERY_S", 0)


@pytest.fixture
def nearly_full(client: ApiClient, redis: redis_py.Redis, always_looks: None) -> Iterator[None]:
    """Leave Redis one percent of its memory."""
    redis.set("filler", FILLER)
    used = redis.info("memory")["used_memory"]
    redis.config_set("maxmemory", int(used / 0.98))
    client.post("/queue/add", {"queue": "simple", "data": {}})  # looks
    yield
    redis.config_set("maxmemory", 0)


@pytest.mark.usefixtures("nearly_full")
@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}, {"jobs": [{}]}])
def test_no_task_is_taken_and_the_client_is_told_to_come_back(client: ApiClient, options: dict[str, object]) -> None:
    path = "/queue/add-batch" if "jobs" in options else "/queue/add"
    body = {"queue": "simple", **({} if "jobs" in options else {"data": {}}), **options}

    answer = client.post(path, body)

    assert (answer.status_code, problem(answer)["code"]) == (503, "broker_full")
    assert int(answer["Retry-After"]) > 0


@pytest.mark.usefixtures("nearly_full")
def test_scripts_of_the_control_plane_still_write(client: ApiClient) -> None:
    assert ApiClient().post("/api/cli/queues/simple/pause").status_code == 200


@pytest.mark.usefixtures("nearly_full")
def test_tasks_are_taken_again_once_there_is_memory(client: ApiClient, redis: redis_py.Redis) -> None:
    redis.config_set("maxmemory", 0)

    answer = client.post("/queue/add", {"queue": "simple", "data": {}})

    assert answer.status_code == 200, json.loads(answer.content)


@pytest.mark.cluster
def test_in_a_cluster_only_queues_of_the_full_server_are_refused(cluster_broker: Broker, always_looks: None) -> None:
    def add(task_id: str, queue: str) -> None:
        request = enqueue(new_task(task_id, queue), now_ns=cluster_broker.now_ns())
        cluster_broker.run(ask_to_add(request, queue=queue, memory=cluster_broker.context().memory))

    client = cluster_broker.client
    queues = {client.get_node_from_key(f"asynq:{{q{n}}}:pending").name: f"q{n}" for n in range(50)}  # type: ignore[union-attr]
    full, *others = queues.items()
    node = client.get_node(node_name=full[0])
    client.set(f"asynq:{{{full[1]}}}:filler", FILLER)
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

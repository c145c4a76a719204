"""A queue that fills Redis is refused alone; other queues are not affected."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.memory import MemoryUse
from tasks.duties import MemoryShares
from tests.api.client import ApiClient, problem
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMIT = 96 * MIB
OTHERS = ("simple", "a", "b", "c", "d")
BIG, SMALL = (json.dumps({"x": "x" * size}).encode() for size in (LIMIT // 16, LIMIT // 60))


@pytest.fixture
def limited(configuration: None, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiClient]:
    """Return a client of a Redis with LIMIT for tasks, on DRF's viewsets, and a queue whose share is a third of it."""
    monkeypatch.setattr(MemoryUse, "CHECK_INTERVAL_S", float("-inf"))  # no test waits for a second
    # what was deleted, such as the tasks of an earlier test, is freed by a thread of Redis
    wait_until(lambda: redis.info("memory")["lazyfree_pending_objects"] == 0)
    memory = redis.info("memory")
    # what earlier tests left is part of what shares are taken of, but not the buffers that they needed
    max_memory = memory["used_memory"] - memory["mem_clients_normal"] + LIMIT
    share = LimitOverrides(max_memory_share=100 * (LIMIT // 3) // max_memory)
    store_queues(spec("flooded", limits=share), *map(spec, OTHERS))
    redis.config_set("maxmemory", max_memory)
    client = ApiClient(CLIENT_KEY)
    yield client
    redis.config_set("maxmemory", 0)
    redis.flushall()
    client.post("/queue/add", {"queue": "simple", "data": {}})  # reads the memory for the next test


def add(client: ApiClient, queue: str, data: bytes = b"{}", **headers: str) -> Any:
    return client.post("/queue/add", b'{"queue": "%s", "data": %s}' % (queue.encode(), data), **headers)


def fill(redis: redis_py.Redis, use: float) -> None:
    """Let Redis use this part of its memory by something that is no task."""
    # it frees the buffers of large requests some seconds later, which would leave less in use
    wait_until(lambda: redis.info("memory")["mem_clients_normal"] < MIB)
    used, limit = redis.info("memory")["used_memory"], redis.config_get("maxmemory")["maxmemory"]
    redis.setrange("filler", int(use * int(limit)) - used, b"x")


def test_a_queue_that_floods_redis_is_refused_alone(limited: ApiClient, single_broker: Broker) -> None:
    flood, others = [], []

    for number in range(20):
        flood.append(add(limited, "flooded", BIG if number % 2 else SMALL))
        MemoryShares().run_tick(single_broker)
        others += [add(limited, queue).status_code for queue in OTHERS]

    refused = [response for response in flood if response.status_code != 200]
    assert others == [200] * len(others)
    assert len(refused) > 3
    assert {(response.status_code, problem(response)["code"], response["Retry-After"]) for response in refused} == {
        (429, "queue_memory", "5")
    }


def test_it_is_accepted_again_once_it_holds_less(
    limited: ApiClient, single_broker: Broker, redis: redis_py.Redis
) -> None:
    add(limited, "simple")
    flood = [add(limited, "flooded", BIG, **{"Idempotency-Key": f"k{n}"}) for n in range(6)]
    ids = [json.loads(response.content)["info"]["id"] for response in flood]
    MemoryShares().run_tick(single_broker)
    fill(redis, 0.85)
    add(limited, "simple")  # reads what was measured
    refused = add(limited, "flooded")
    batch = limited.post("/queue/add-batch", {"queue": "flooded", "jobs": [{"data": {}}] * 3})
    repeated = add(limited, "flooded", BIG, **{"Idempotency-Key": "k0"})

    redis.delete(*[QueueKeys("flooded").task(task_id) for task_id in ids])
    accepted = add(limited, "flooded")

    codes = [(response.status_code, problem(response)["code"]) for response in (refused, batch)]
    assert codes == [(429, "queue_memory")] * 2
    assert (repeated.status_code, repeated["Idempotent-Replayed"]) == (200, "true")
    assert accepted.status_code == 200


@pytest.mark.parametrize(("share", "has_other"), [(100, True), (50, False)])
def test_a_queue_with_a_larger_share_or_alone_is_not_refused(
    limited: ApiClient, single_broker: Broker, redis: redis_py.Redis, share: int, *, has_other: bool
) -> None:
    save_queue(spec=spec("flooded", limits=LimitOverrides(max_memory_share=share)), source=QueueSource.API)
    if has_other:
        add(limited, "simple")
    for _ in range(6):
        add(limited, "flooded", BIG)
    MemoryShares().run_tick(single_broker)
    fill(redis, 0.85)

    assert [add(limited, "flooded").status_code for _ in range(2)] == [200, 200]


def test_a_payload_beyond_the_limit_of_its_queue_is_refused(client: ApiClient) -> None:
    save_queue(spec=spec("flooded", limits=LimitOverrides(max_payload_bytes=10)), source=QueueSource.API)

    refused = add(client, "flooded", b'{"x": 12345}')
    jobs = [{"data": {"x": 1}}, {"data": {"x": 12345}}]
    batch = json.loads(client.post("/queue/add-batch", {"queue": "flooded", "jobs": jobs}).content)

    assert (refused.status_code, problem(refused)["code"]) == (413, "payload_too_large")
    assert "12 bytes" in problem(refused)["detail"]
    assert (batch["enqueued"], batch["failed"]) == (1, 1)
    assert add(client, "flooded", b'{"x":1234}').status_code == 200

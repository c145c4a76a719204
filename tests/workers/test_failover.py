"""A worker whose Redis is the master that Sentinel names."""

from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.errors import BrokerUnavailable
from tests.support.links import wait_for_redis
from tests.support.servers import MASTER_NAME, SentinelSet
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, create_redis_user
from tests.workers.processes import add_task, wait_for_state

pytestmark = pytest.mark.fault


def test_a_worker_continues_after_the_master_was_killed(
    sentinel_set: SentinelSet,
    sentinel_broker: Broker,
    server: FakeServer,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    address = f"127.0.0.1:{sentinel_set.sentinel.port}"
    server.response["redis"] |= {
        "addr": address,
        "mode": "sentinel",
        "addresses": [address],
        "master_name": MASTER_NAME,
    }
    start_worker()
    before = wait_for_state(sentinel_broker, add_task(sentinel_broker, {"do": "pid"}), "completed")
    started, until = tmp_path / "started", tmp_path / "until"
    running = add_task(sentinel_broker, {"do": "wait", "started": str(started), "until": str(until)})
    eventually(started.exists)
    sentinel_set.wait_for_replica()

    sentinel_set.kill_master()
    until.touch()
    after = eventually(lambda: _added(sentinel_broker, {"do": "pid"}), within_s=120)
    create_redis_user(server.accepted(server.requests[0]), server.requests[0])  # as maintenance does on a new master
    wait_for_redis(sentinel_broker)

    assert wait_for_state(sentinel_broker, running, "completed").result == b'"waited"'
    assert wait_for_state(sentinel_broker, after, "completed").result == before.result
    assert len(server.requests) == 1


def _added(broker: Broker, payload: object) -> str | None:
    """Enqueue a task and return its id; None while Redis is away."""
    try:
        return add_task(broker, payload)
    except BrokerUnavailable:
        return None

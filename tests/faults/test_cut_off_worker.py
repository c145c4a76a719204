"""A worker that cannot reach Redis, while its server does, is shown as disconnected."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.workers.records import LOST_AFTER_S
from tests.faults.producers import QUEUE
from tests.faults.servers import RECOVERED_S, StartWeb
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.environment import WORKER_KEY
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web import WebProcess
from tests.workers.processes import WorkerProcess

pytestmark = pytest.mark.fault


@pytest.fixture
def web(start_web: StartWeb, valkey: ValkeyServer, network: BadNetwork) -> WebProcess:
    """Return a server whose workers reach Redis through the network; it itself has a way of its own."""
    return start_web(valkey.url, RUNQY_WORKER_REDIS_URL=f"redis://127.0.0.1:{network.port}", RUNQY_LEASE="1")


@pytest.fixture
def worker(web: WebProcess, stored: redis_py.Redis, tmp_path: Path) -> Iterator[WorkerProcess]:
    """Return a worker; its deployment does not matter here."""
    worker = WorkerProcess(web, tmp_path, RUNQY_API_KEY=WORKER_KEY, RUNQY_QUEUES=QUEUE)
    yield worker
    worker.end()


def look(web: WebProcess) -> dict[str, Any]:
    """Return the worker as the API shows it."""
    workers = web.send("/api/cli/workers")[1].get("workers")  # none while a busy machine delays Redis
    return workers[0] if workers else {"state": None, "reason": ""}


def test_a_worker_that_is_cut_off_from_redis_is_disconnected_until_it_is_back(
    web: WebProcess, worker: WorkerProcess, network: BadNetwork, stored: redis_py.Redis
) -> None:
    wait_until(lambda: look(web)["state"] not in (None, "disconnected"), RECOVERED_S)

    network.mode = FaultMode.SILENT

    wait_until(lambda: "It cannot reach Redis" in look(web)["reason"], RECOVERED_S)
    record = look(web)
    assert (record["state"], record["status"], record["is_stale"]) == ("disconnected", "disconnected", True)
    assert f"no heartbeat has reached Redis since {record['disconnected_since']}" in record["reason"]
    listed_until_s = time.time() + LOST_AFTER_S
    wait_until(lambda: stored.zscore(keys.WORKER_RECORDS, record["worker_id"]) > listed_until_s, RECOVERED_S)

    network.mode = FaultMode.FINE

    wait_until(lambda: look(web)["state"] not in (None, "disconnected"), RECOVERED_S)
    wait_until(lambda: look(web).get("disconnected_since", "") is None, RECOVERED_S)

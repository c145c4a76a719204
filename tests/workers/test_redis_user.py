"""A worker, the server and maintenance as they are run: the worker enters Redis as a user of its own."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import CreatedKey, create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.maintenance.recoverer import LeaselessWatch, recover_lost
from runqy.broker.tasks.reader import find_task, read_tasks
from runqy.redis_connection import get_broker
from tests.queues.samples import spec
from tests.support.database import database_variables
from tests.support.maintenance import start_maintenance
from tests.support.processes import is_alive
from tests.support.servers import ValkeyServer
from tests.support.waiting import eventually
from tests.support.web import WebProcess
from tests.workers.fake_server import FakeServer
from tests.workers.processes import (
    WorkerProcess,
    add_task,
    wait_for_record,
    wait_for_state,
    wait_task,
)
from tests.workers.repositories import Repository


@pytest.fixture
def valkey(configuration: None, settings: Any) -> Iterator[ValkeyServer]:
    """Return a Redis of the test's own, on which this process works too."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", server.port),))
    yield server
    server.stop()


@pytest.fixture
def broker(valkey: ValkeyServer) -> Broker:
    return get_broker()


@pytest.fixture
def key(broker: Broker, task_repository: Repository) -> CreatedKey:
    """Return the key of a worker; there is a queue."""
    deployment = Deployment(git_url=task_repository.url, startup_cmd="python main.py")
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    return create_api_key(name="gpu", role="worker")


@pytest.fixture
def worker(
    key: CreatedKey, valkey: ValkeyServer, server: FakeServer, deployments: Path, tmp_path: Path
) -> Iterator[WorkerProcess]:
    """Return a worker that serves the queue, registered with the real server."""
    variables = database_variables() | {"REDIS_URL": valkey.url, "RUNQY_WORKER_ACL": "required"}
    variables["RUNQY_LEASE"] = "10m"  # however late a worker or its test is, maintenance recovers nothing
    with (tmp_path / "maintenance.log").open("wb") as log:
        maintenance = start_maintenance(log, **variables)
    web = WebProcess(tmp_path, **variables)
    settings = {"RUNQY_SERVER_URL": web.url, "RUNQY_API_KEY": key.plain, "RUNQY_DEPLOYMENT_DIR": str(deployments)}
    settings["RUNQY_SHUTDOWN_TIMEOUT"] = "1s"
    process = WorkerProcess(server, tmp_path, **settings)
    yield process
    process.end()
    web.kill()
    maintenance.send_signal(signal.SIGTERM)
    maintenance.wait(30)


def user_of(valkey: ValkeyServer) -> set[str]:
    """Return the Redis users of connected workers."""
    with valkey.client() as client:
        return {entry["user"] for entry in client.client_list()} - {"default"}


def test_it_runs_tasks_through_a_restart_of_redis_without_registering_again(
    worker: WorkerProcess, broker: Broker, valkey: ValkeyServer, tmp_path: Path
) -> None:
    task = wait_task(tmp_path)
    running = add_task(broker, task)
    eventually(Path(task["started"]).exists, what=worker.log.read_text)
    (name,) = user_of(valkey)

    valkey.kill()
    valkey.start()
    Path(task["until"]).touch()

    assert wait_for_state(broker, running, "completed")
    assert wait_for_state(broker, add_task(broker, 1), "completed")
    assert user_of(valkey) == {name}
    assert not worker.events("registered_again")


def test_it_ends_with_its_key_and_its_task_is_left_to_others(  # noqa: PLR0917
    worker: WorkerProcess,
    broker: Broker,
    valkey: ValkeyServer,
    key: CreatedKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = wait_task(tmp_path)
    running, waiting = add_task(broker, task), add_task(broker, 1)
    eventually(Path(task["started"]).exists, what=worker.log.read_text)

    revoke_api_key(key_id=key.row.pk)
    eventually(lambda: not user_of(valkey))
    Path(task["until"]).touch()

    assert worker.process.wait(60) == 1
    assert "rejected this API key" in worker.events("worker_ends")[-1]["reason"]
    assert not is_alive(worker.process.pid)
    records = broker.run(read_tasks([("mail", running), ("mail", waiting)]))
    assert [(record.state, record.result) for record in records] == [("active", None), ("pending", None)]
    later_ns = broker.now_ns() + 3600 * 10**9
    monkeypatch.setattr(broker, "now_ns", lambda: later_ns)
    broker.run(recover_lost(["mail"], LeaselessWatch()))
    assert broker.run(find_task(running)).state == "retry"


def test_its_user_ends_when_it_stops(worker: WorkerProcess, broker: Broker, valkey: ValkeyServer) -> None:
    wait_for_record(broker, "ready")

    assert worker.stop() == 0

    with valkey.client() as client:
        eventually(lambda: client.acl_users() == ["default"])

"""A worker, the server and maintenance as they are run: the worker enters Redis as a user of its own."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import change_queue, save_queue
from runqy.accounts.operations import CreatedKey, create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.tasks.reader import find_task, read_tasks
from runqy.core.environment.connection_urls import RedisTarget
from runqy.redis_connection import get_broker
from tests.queues.samples import spec
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.database import database_variables
from tests.support.links import wait_for_redis
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

pytestmark = pytest.mark.slow


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
def deployment(task_repository: Repository) -> Deployment:
    """Return the deployment of the queue."""
    return Deployment(git_url=task_repository.url, startup_cmd="python main.py")


@pytest.fixture
def key(broker: Broker, deployment: Deployment) -> CreatedKey:
    """Return the key of a worker; there is a queue."""
    save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)
    return create_api_key(name="gpu", role="worker")


@pytest.fixture
def server_network(key: CreatedKey, valkey: ValkeyServer, tmp_path: Path) -> Iterator[BadNetwork]:
    """Return the network to the real server, which runs with its maintenance."""
    variables = database_variables() | {"REDIS_URL": valkey.url, "RUNQY_WORKER_ACL": "required"}
    variables["RUNQY_LEASE"] = "10m"  # however late a worker or its test is, maintenance recovers nothing
    with (tmp_path / "maintenance.log").open("wb") as log:
        maintenance = start_maintenance(log, **variables)
    web = WebProcess(tmp_path, **variables)
    network = BadNetwork(web.port, random.Random(1))
    yield network
    network.close()
    web.kill()
    maintenance.send_signal(signal.SIGTERM)
    maintenance.wait(30)


@pytest.fixture
def worker(  # noqa: PLR0917
    key: CreatedKey,
    server_network: BadNetwork,
    server: FakeServer,
    deployments: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[WorkerProcess]:
    """Return a worker that serves the queue, registered with the real server, with this number of children."""
    children = str(getattr(request, "param", 1))
    settings = {"RUNQY_SERVER_URL": f"http://127.0.0.1:{server_network.port}", "RUNQY_API_KEY": key.plain}
    settings |= {"RUNQY_DEPLOYMENT_DIR": str(deployments), "RUNQY_SHUTDOWN_TIMEOUT": "1s"}
    process = WorkerProcess(server, tmp_path, RUNQY_CONCURRENCY=children, RUNQY_PROCESSES=children, **settings)
    # For the queue's first release, which maintenance makes of the worker's commit. It gets another user in Redis.
    process.wait_for("registered_again")
    yield process
    process.end()


def user_of(valkey: ValkeyServer) -> str:
    """Return the Redis user of the only worker, once the users that it had before are deleted."""
    with valkey.client() as client:
        (name,) = eventually(lambda: len(names := {*client.acl_users()} - {"default"}) == 1 and names)
    return name


def has_no_users(valkey: ValkeyServer) -> bool:
    with valkey.client() as client:
        return bool(client.acl_users() == ["default"])


def test_it_runs_tasks_through_a_restart_of_redis_without_registering_again(
    worker: WorkerProcess, broker: Broker, valkey: ValkeyServer, tmp_path: Path
) -> None:
    task = wait_task(tmp_path)
    running = add_task(broker, task)
    eventually(Path(task["started"]).exists, what=worker.log.read_text)
    name = user_of(valkey)

    valkey.kill()
    valkey.start()
    wait_for_redis(broker)
    Path(task["until"]).touch()

    assert wait_for_state(broker, running, "completed")
    assert wait_for_state(broker, add_task(broker, 1), "completed")
    assert user_of(valkey) == name
    assert len(worker.events("registered_again")) == 1


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
    eventually(lambda: has_no_users(valkey))
    Path(task["until"]).touch()

    assert worker.process.wait(60) == 1
    assert "rejected this API key" in worker.events("worker_exits")[-1]["reason"]
    assert not is_alive(worker.process.pid)
    records = broker.run(read_tasks(broker, [("mail", running), ("mail", waiting)]))
    assert [(record.state, record.result) for record in records] == [("active", None), ("pending", None)]
    later_ns = broker.now_ns() + 3600 * 10**9
    monkeypatch.setattr(broker, "now_ns", lambda: later_ns)
    broker.run(recover_lost(broker, ["mail"], LeaselessWatch()))
    assert broker.run(find_task(broker, running)).state == "retry"


def test_its_user_ends_when_it_stops(worker: WorkerProcess, broker: Broker, valkey: ValkeyServer) -> None:
    wait_for_record(broker, "ready")

    assert worker.stop() == 0

    eventually(lambda: has_no_users(valkey))


@pytest.mark.parametrize("worker", [3], indirect=True)
def test_it_continues_without_a_sub_queue_that_was_removed_while_it_was_frozen(  # noqa: PLR0917
    worker: WorkerProcess,
    broker: Broker,
    valkey: ValkeyServer,
    server_network: BadNetwork,
    deployment: Deployment,
    tmp_path: Path,
) -> None:
    save_queue(spec=spec("mail", "high:1", "low:1", deployment=deployment), source=QueueSource.API)
    eventually(lambda: {*wait_for_record(broker, "ready").redis_queues} == {"mail_high", "mail_low"})
    tasks = {name: wait_task(tmp_path, name) for name in ("mail_high", "mail_low")}
    ids = {name: add_task(broker, task, queue=name) for name, task in tasks.items()}
    eventually(lambda: all(Path(task["started"]).exists() for task in tasks.values()), what=worker.log.read_text)
    user = user_of(valkey)

    worker.process.send_signal(signal.SIGSTOP)
    server_network.mode = FaultMode.CUT
    change_queue(spec=spec("mail", "high:1", deployment=deployment))
    with valkey.client() as client:
        eventually(lambda: not any("mail_low" in key for key in client.acl_getuser(user)["keys"]))
    for task in tasks.values():
        Path(task["until"]).touch()
    worker.process.send_signal(signal.SIGCONT)

    later = add_task(broker, 1, queue="mail_high")
    reason = eventually(
        lambda: "register again" in (reason := wait_for_record(broker, "starting").reason) and reason,
        what=worker.log.read_text,
    )
    assert "Redis refuses its dequeues" in reason
    assert broker.run(find_task(broker, later)).state == "pending"

    server_network.mode = FaultMode.FINE
    assert wait_for_state(broker, later, "completed")
    assert wait_for_state(broker, ids["mail_high"], "completed")
    record = eventually(lambda: (found := wait_for_record(broker, "ready")).free_slots == 3 and found)
    assert record.reason == ""
    assert broker.run(find_task(broker, ids["mail_low"])).state == "active"

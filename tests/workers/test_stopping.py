"""Stopping a worker with its tasks and children."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.reader import find_task
from runqy.stack import processes
from runqy.stack.processes import Process
from tests.support.processes import is_alive
from tests.support.redis_client import redis_of
from tests.support.servers import ValkeyServer
from tests.support.waiting import PATIENCE_S, eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, broker_on, wait_for_state, wait_task, worker_environment
from workers.runtime.worker_session import QUICK_STOP_S

pytestmark = pytest.mark.slow

MAIL = QueueKeys("mail")


def test_a_stop_lets_a_short_task_end(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for("stopping")
    later = add_task(single_broker, 1)
    Path(task["until"]).touch()
    status = worker.process.wait(60)

    assert status == 0
    assert wait_for_state(single_broker, running, "completed", within_s=1).result == b'"waited"'
    assert wait_for_state(single_broker, later, "pending", within_s=1)


def test_a_stop_gives_a_longer_task_back_unspent_to_the_front(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="100ms", RUNQY_CONCURRENCY="2")
    started = tmp_path / "started"
    running = add_task(single_broker, {"do": "hang", "started": str(started)})
    eventually(started.exists)
    waiting = add_task(single_broker, 2)

    status = worker.stop()

    assert status == 0
    assert redis.lrange(MAIL.pending, 0, -1) == [one.encode() for one in (waiting, running)]
    record = wait_for_state(single_broker, running, "pending", within_s=1)
    assert (record.retried, record.child_deaths) == (0, 0)
    assert not redis.exists(MAIL.active, MAIL.lease)
    assert not is_alive(int(started.read_text()))


class SecondSignal:
    """Stop signals of a supervisor; the second comes once the worker has handled the first."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def count(self) -> int:
        return 1 + ("stopping" in self._log.read_text())


def test_a_supervisor_waits_after_its_second_signal_until_tasks_are_given_back(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, deployments: Path, tmp_path: Path
) -> None:
    env = worker_environment(server, tmp_path, RUNQY_DEPLOYMENT_DIR=str(deployments), RUNQY_SHUTDOWN_TIMEOUT="1h")
    spec = processes.worker(env=env, log=tmp_path / "stopped.log", shutdown_s=600)
    assert spec.hurried_s >= QUICK_STOP_S  # what a worker takes at most, except on a busy machine
    process = Process(replace(spec, hurried_s=PATIENCE_S))
    task = wait_task(tmp_path)  # the SDK finishes it on SIGTERM
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    process.end(SecondSignal(spec.log))  # type: ignore[arg-type]

    assert process.poll() == 0
    assert single_broker.run(find_task(single_broker, running)).state == "pending"


def test_an_idle_worker_does_not_wait_for_a_redis_that_is_away(server: FakeServer, start_worker: StartWorker) -> None:
    own = ValkeyServer().start()
    server.response["redis"]["addr"] = f"127.0.0.1:{own.port}"
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="1h")
    with redis_of(broker_on(own)) as client:
        eventually(lambda: client.exists(MAIL.idle))
    own.stop()
    worker.wait_for("broker_unavailable")

    assert worker.stop() == 0  # waits for a minute at most


def test_a_second_signal_does_not_wait(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="1h")
    started = tmp_path / "started"
    running = add_task(single_broker, {"do": "hang", "started": str(started)})
    eventually(started.exists)

    worker.process.send_signal(signal.SIGINT)
    worker.wait_for("stopping")
    status = worker.stop(signal.SIGINT)

    assert status == 0
    assert wait_for_state(single_broker, running, "pending", within_s=1)


def test_children_end_with_a_worker_that_is_killed(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    started = tmp_path / "started"
    add_task(single_broker, {"do": "hang", "started": str(started)})
    pid = int(eventually(lambda: started.exists() and started.read_text()))

    os.kill(worker.process.pid, signal.SIGKILL)

    eventually(lambda: not is_alive(pid))


def test_a_worker_that_waits_for_its_server_can_be_stopped(server: FakeServer, start_worker: StartWorker) -> None:
    server.status = 503
    worker = start_worker(RUNQY_BOOTSTRAP_RETRY_DELAY="1h")
    worker.wait_for("not_registered")

    assert worker.stop() == 0

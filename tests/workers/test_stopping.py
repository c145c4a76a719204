"""Stopping a worker with its tasks and children."""

import os
import signal
from pathlib import Path

import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from tests.support.processes import is_alive
from tests.support.servers import ValkeyServer
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, broker_on, wait_for_state, wait_task

MAIL = QueueKeys("mail")


def test_a_stop_lets_a_short_task_end(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for("draining")
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
    held = add_task(single_broker, 1)
    eventually(started.exists)
    eventually(lambda: redis.llen(MAIL.active) == 2)
    waiting = add_task(single_broker, 2)

    status = worker.stop()

    assert status == 0
    assert redis.lrange(MAIL.pending, 0, -1) == [one.encode() for one in (waiting, held, running)]
    record = wait_for_state(single_broker, running, "pending", within_s=1)
    assert (record.retried, record.child_deaths) == (0, 0)
    assert not redis.exists(MAIL.active, MAIL.lease)
    assert not is_alive(int(started.read_text()))


def test_an_idle_worker_does_not_wait_for_a_redis_that_is_away(server: FakeServer, start_worker: StartWorker) -> None:
    own = ValkeyServer().start()
    server.response["redis"]["addr"] = f"127.0.0.1:{own.port}"
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="1h")
    with broker_on(own).client as client:
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
    worker.wait_for("draining")
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

"""A worker whose Redis goes away, moves or changes its password."""

import re
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from tests.support.redis_client import redis_of
from tests.support.servers import ValkeyServer, free_port
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, broker_on, wait_for_record, wait_for_state, wait_task

pytestmark = pytest.mark.slow


def test_a_worker_reconnects_after_a_restart_of_redis(
    server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    own = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    server.response["redis"]["addr"] = f"127.0.0.1:{own.port}"
    worker = start_worker()
    broker = broker_on(own)
    task = wait_task(tmp_path)
    running = add_task(broker, task)
    eventually(Path(task["started"]).exists)

    own.kill()
    Path(task["until"]).touch()
    worker.wait_for("broker_unavailable")
    own.start()

    broker.close()
    assert wait_for_state(broker_on(own), running, "completed")
    assert wait_for_state(broker_on(own), add_task(broker_on(own), 1), "completed")
    worker.stop()
    own.stop()


def test_a_worker_registers_again_if_redis_does_not_respond(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    right = server.response["redis"]["addr"]
    server.response["redis"]["addr"] = f"127.0.0.1:{free_port()}"
    worker = start_worker()
    worker.wait_for("broker_unavailable")

    server.response["redis"]["addr"] = right

    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")


def test_a_worker_finds_a_redis_that_has_moved(server: FakeServer, start_worker: StartWorker, tmp_path: Path) -> None:
    own = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    server.response["redis"]["addr"] = f"127.0.0.1:{own.port}"
    server.response["lease_secs"] = 2
    worker = start_worker()
    task = wait_task(tmp_path)
    running = add_task(broker_on(own), task)
    eventually(Path(task["started"]).exists)

    own.kill()
    own.port = free_port()
    own.start()
    server.response["redis"]["addr"] = f"127.0.0.1:{own.port}"
    worker.wait_for("broker_silent")
    worker.wait_for("registered_again")
    Path(task["until"]).touch()

    assert wait_for_state(broker_on(own), running, "completed")
    assert wait_for_state(broker_on(own), add_task(broker_on(own), 1), "completed")
    assert wait_for_record(broker_on(own), "ready")
    worker.stop()
    own.stop()


def test_a_worker_registers_less_and_less_often_for_a_silent_redis_and_survives_its_return(
    server: FakeServer, start_worker: StartWorker
) -> None:
    own = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    server.response["redis"]["addr"] = f"127.0.0.1:{own.port}"
    server.response["lease_secs"] = 1
    worker = start_worker()
    wait_for_state(broker_on(own), add_task(broker_on(own), 1), "completed")

    own.kill()
    eventually(lambda: len(server.requests) >= 3, what=worker.log.read_text)
    own.start()

    assert wait_for_state(broker_on(own), add_task(broker_on(own), 2), "completed")
    assert len(worker.events("registered")) == 1
    assert len(worker.events("registered_again")) <= 2 < len(server.requests)
    worker.stop()
    own.stop()


def test_a_worker_registers_again_for_a_changed_password_of_redis(
    server: FakeServer, start_worker: StartWorker
) -> None:
    own = ValkeyServer("--requirepass", "first-password").start()
    server.response["redis"] |= {"addr": f"127.0.0.1:{own.port}", "password": "first-password"}
    worker = start_worker()
    broker = broker_on(own, "first-password")
    wait_for_state(broker, add_task(broker, 1), "completed")

    server.response["redis"]["password"] = "second-password"
    redis_of(broker).config_set("requirepass", "second-password")
    redis_of(broker).client_kill_filter(skipme=True, _type="normal")
    worker.wait_for("registered_again")
    broker = broker_on(own, "second-password")

    assert wait_for_state(broker, add_task(broker, 2), "completed")
    assert not re.search("(first|second)-password", worker.log.read_text())
    worker.stop()
    own.stop()


def test_a_worker_registers_again_until_the_server_knows_the_changed_password(
    server: FakeServer, start_worker: StartWorker
) -> None:
    own = ValkeyServer("--requirepass", "first-password").start()
    server.response["redis"] |= {"addr": f"127.0.0.1:{own.port}", "password": "first-password"}
    worker = start_worker()
    broker = broker_on(own, "first-password")
    wait_for_state(broker, add_task(broker, 1), "completed")

    redis_of(broker).config_set("requirepass", "second-password")
    redis_of(broker).client_kill_filter(skipme=True, _type="normal")
    worker.wait_for("registered_again")
    server.response["redis"]["password"] = "second-password"
    broker = broker_on(own, "second-password")

    assert wait_for_state(broker, add_task(broker, 2), "completed")
    worker.stop()
    own.stop()

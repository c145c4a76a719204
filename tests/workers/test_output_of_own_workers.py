"""Output of tasks of workers that are killed, that share children or that lose Redis."""

import os
import signal
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from tests.support.redis_client import redis_of
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.outputs import output_of, shout, wait_for_progress, wait_for_text
from tests.workers.processes import wait_for_state, wait_task

pytestmark = pytest.mark.slow

FINAL = ("completed", "archived")


def test_a_killed_worker_leaves_what_was_sent(
    single_broker: Broker, start_worker: StartWorker, server: FakeServer, tmp_path: Path
) -> None:
    worker = start_worker()
    task_id = shout(single_broker, "before the end", **wait_task(tmp_path))
    wait_for_text(single_broker, task_id, b"before the end\n")

    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()

    assert output_of(single_broker, task_id).text == b"before the end\n"


def test_tasks_at_once_in_a_child_share_its_output(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    ids = [shout(single_broker, f"line {n}") for n in range(300)]
    start_worker(RUNQY_CONCURRENCY="16")

    for task_id in ids:
        wait_for_state(single_broker, task_id, *FINAL, within_s=60)

    eventually(lambda: all(output_of(single_broker, task_id).text for task_id in ids))
    found = [output_of(single_broker, task_id) for task_id in ids]
    assert any(output.is_shared for output in found)
    assert not found[0].is_shared
    assert all(output.text == f"line {n}\n".encode() for n, output in enumerate(found) if not output.is_shared)
    assert {f"line {n}\n".encode() for n in range(300)} <= {
        line for output in found for line in output.text.splitlines(keepends=True)
    }


def test_one_shot_children_print_for_their_tasks(
    single_broker: Broker, start_worker: StartWorker, server: FakeServer
) -> None:
    server.response["queue"]["mode"] = "one_shot"
    server.response["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker(RUNQY_CONCURRENCY="2")
    ids = [shout(single_broker, f"line {n}", progress=[{"current": n}]) for n in range(4)]

    for task_id in ids:
        wait_for_state(single_broker, task_id, *FINAL)

    for number, task_id in enumerate(ids):
        wait_for_text(single_broker, task_id, b"line %d\n" % number)
        wait_for_progress(single_broker, task_id, number)


@pytest.mark.parametrize("setting", [False, None])
def test_a_server_may_want_no_output(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, server: FakeServer, setting: bool | None
) -> None:
    if setting is None:
        del server.response["task_output"]
    else:
        server.response["task_output"] = setting
    start_worker()
    task_id = shout(single_broker, "line", progress=[{"current": 1}])

    wait_for_state(single_broker, task_id, *FINAL)

    wait_for_progress(single_broker, task_id, 1)
    assert not redis.exists(QueueKeys("mail").output(task_id))


def test_output_survives_an_outage_of_redis_in_parts(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    task_id = shout(single_broker, "line", **wait_task(tmp_path))
    wait_for_text(single_broker, task_id, b"line\n")
    redis_of(single_broker).client_kill_filter(_type="normal", skipme=True)
    (tmp_path / "task.until").touch()

    wait_for_state(single_broker, task_id, *FINAL)

    assert output_of(single_broker, task_id).text == b"line\n"

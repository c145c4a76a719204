"""A worker of a queue that starts a child per task."""

import json
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.broker.tasks.archive_reasons import timeout_error
from tests.support.processes import is_alive
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import (
    add_task,
    wait_for_state,
)

pytestmark = pytest.mark.slow


def test_each_one_shot_task_has_a_child_of_its_own(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["mode"] = "one_shot"
    server.response["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker(RUNQY_CONCURRENCY="2")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ids = [add_task(single_broker, {"do": "env"}, headers={"traceparent": trace}) for _ in range(3)]
    pids = [add_task(single_broker, {"do": "pid"}) for _ in range(3)]

    environments = [json.loads(wait_for_state(single_broker, one, "completed").result or b"") for one in ids]
    results = {wait_for_state(single_broker, one, "completed").result for one in pids}

    assert [env["RUNQY_TASK_ID"] for env in environments] == ids
    assert {env["TRACEPARENT"] for env in environments} == {trace}
    assert len(results) == 3


def test_a_one_shot_child_that_dies_is_counted_and_others_continue(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["mode"] = "one_shot"
    server.response["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker()
    task_id = add_task(single_broker, {"do": "exit"})

    record = wait_for_state(single_broker, task_id, "retry", "archived")
    other = wait_for_state(single_broker, add_task(single_broker, 1), "completed", "archived")

    assert (record.state, record.child_deaths, record.retried) == ("retry", 1, 0)
    assert other.state == "completed"


def test_a_one_shot_run_that_timed_out_is_ended(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["queue"]["mode"] = "one_shot"
    server.response["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker()
    started = tmp_path / "started"

    for timeout_s in (1, 10, 60):  # on a busy machine its child may not have begun before
        task_id = add_task(single_broker, {"do": "hang", "started": str(started)}, timeout_s=timeout_s)
        record = wait_for_state(single_broker, task_id, "retry", "archived", within_s=120)
        if started.exists():
            break

    assert (record.state, record.error) == ("retry", timeout_error(timeout_s))
    assert not is_alive(int(started.read_text()))

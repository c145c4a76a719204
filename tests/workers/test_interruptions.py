"""Runs that are interrupted: timeouts, cancellations, dying children, lost leases."""

import os
import re
import signal
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import read_run_counters
from runqy.broker.tasks.archive_reasons import ErrorClass, timeout_error
from runqy.broker.tasks.cancel import cancel
from tasks.history.error_groups import parse_error
from tests.support.processes import is_alive
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.outputs import output_of
from tests.workers.processes import add_task, wait_for_state, wait_task
from tests.workers.repositories import Repository

pytestmark = pytest.mark.slow

MAIL = QueueKeys("mail")

COOPERATIVE = """
import json, sys, os
print(json.dumps({"status": "ready", "accepts": ["cancel"]}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request.get("control") == "cancel":
        response = {"task_id": request["task_id"], "result": None, "error": "gave up", "retry": True}
    elif request["payload"] == "wait":
        open(os.environ["STARTED"], "w").close()
        continue
    else:
        response = {"task_id": request["task_id"], "result": os.getpid(), "error": None, "retry": False}
    print(json.dumps(response), flush=True)
"""


def test_a_timeout_ends_the_child_and_all_its_processes(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    started = tmp_path / "started"

    for timeout_s in (1, 10, 60):  # on a busy machine it may not have started all processes before
        task_id = add_task(single_broker, {"do": "spawn", "started": str(started)}, timeout_s=timeout_s)
        record = wait_for_state(single_broker, task_id, "retry", "archived", within_s=120)
        if started.exists():
            break

    processes = [int(word) for word in started.read_text().split()]
    assert (record.state, record.error, record.retried) == ("retry", timeout_error(timeout_s), 1)
    assert record.error_class == ErrorClass.TIMEOUT
    assert len(processes) == 3
    eventually(lambda: not any(map(is_alive, processes)))
    after = wait_for_state(single_broker, add_task(single_broker, "next"), "completed", "archived")
    assert after.state == "completed"


def test_a_deadline_ends_a_run_too(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    payload = {"do": "hang", "started": str(tmp_path / "started")}
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    task_id = add_task(single_broker, payload, deadline_s=single_broker.now_s() + 4, max_retry=0, timeout_s=600)
    record = wait_for_state(single_broker, task_id, "retry", "archived")

    assert (record.state, record.error) == ("archived", "deadline exceeded")
    assert record.error_class == ErrorClass.DEADLINE_EXCEEDED


def test_a_task_whose_deadline_has_passed_is_not_run_and_costs_no_child(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    before = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed").result
    past_s = single_broker.now_s() - 1

    task_id = add_task(single_broker, wait_task(tmp_path), deadline_s=past_s, timeout_s=600)
    record = wait_for_state(single_broker, task_id, "archived", "retry", "completed")

    assert (record.state, record.error) == ("archived", "deadline exceeded")
    assert not (tmp_path / "task.started").exists()
    assert wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed").result == before


def test_cancelling_a_running_task_archives_it(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    started = tmp_path / "started"
    task_id = add_task(single_broker, {"do": "hang", "started": str(started)})
    eventually(lambda: started.exists() and started.read_text())

    single_broker.run(cancel("mail", task_id, now_ns=single_broker.now_ns()))
    record = wait_for_state(single_broker, task_id, "retry", "archived", "completed")

    assert (record.state, record.error) == ("archived", "canceled")
    eventually(lambda: not is_alive(int(started.read_text().split()[0])))


def test_a_child_that_does_not_accept_cancel_is_terminated_after_a_second(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    task = wait_task(tmp_path)
    task_id = add_task(single_broker, task, retention_s=3600)
    pid = int(eventually(lambda: Path(task["started"]).exists() and Path(task["started"]).read_text()))

    single_broker.run(cancel("mail", task_id, now_ns=single_broker.now_ns()))
    record = wait_for_state(single_broker, task_id, "archived")

    assert (record.error, record.retried) == ("canceled", 0)
    assert not is_alive(pid)
    (entry,) = worker.events("child_terminated")
    assert (entry["task_id"], entry["accepts_cancel"], entry["kill_after_s"]) == (task_id, False, 1.0)
    note = rb"\[its process had to be restarted to end the task; the last start took \d+ (s|min)\]\n"
    eventually(lambda: re.fullmatch(note, output_of(single_broker, task_id).text))


def test_a_cancelled_task_that_another_worker_put_back_is_archived_instead_of_run(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    task = wait_task(tmp_path)
    task_id = add_task(single_broker, task)
    redis.hset(MAIL.task(task_id), "cancel", single_broker.now_ns())  # while a worker of asynq's ran it

    start_worker()
    record = wait_for_state(single_broker, task_id, "archived", "completed")

    assert (record.error, record.is_canceled) == ("canceled", True)
    assert not Path(task["started"]).exists()


def test_a_child_that_supports_cancel_continues_with_the_next_task(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"main.py": COOPERATIVE})
    started = tmp_path / "started"
    server.response["deployment"] |= {"git_url": repository.url, "env_vars": {"STARTED": str(started)}}
    start_worker(RUNQY_DEPLOYMENT_DIR=str(tmp_path / "own"))
    before = wait_for_state(single_broker, add_task(single_broker, 1), "completed")
    task_id = add_task(single_broker, "wait")
    eventually(started.exists)

    single_broker.run(cancel("mail", task_id, now_ns=single_broker.now_ns()))
    record = wait_for_state(single_broker, task_id, "archived", "retry")
    after = wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    assert (record.state, record.error) == ("archived", "canceled")
    assert before.result == after.result


def test_a_task_that_kills_its_child_each_time_is_archived_with_the_cause(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker
) -> None:
    start_worker()
    task_id = add_task(single_broker, {"do": "die"})
    for deaths in (1, 2):
        eventually(lambda deaths=deaths: _deaths(redis, task_id) == deaths and redis.zscore(MAIL.retry, task_id))
        _make_due(redis, task_id)

    record = wait_for_state(single_broker, task_id, "archived")
    other = wait_for_state(single_broker, add_task(single_broker, "other"), "completed")

    cause, *rest = record.error.splitlines()
    assert cause == "the child process was killed by SIGKILL: probably it, or the machine, ran out of memory"
    assert "[3 child processes died while running this task]" in rest
    assert {each.error_class for each in record.failures} == {record.error_class} == {ErrorClass.PROCESS_KILLED}
    groups = {parse_error(each.error, each.error_class).fingerprint for each in record.failures}
    assert len(groups) == 1
    assert (record.retried, record.child_deaths) == (0, 3)
    assert other.state == "completed"


def test_a_killed_child_is_noticed_and_its_task_tried_again_unspent(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    started = tmp_path / "started"
    task_id = add_task(single_broker, {"do": "wait", "started": str(started), "until": str(tmp_path / "never")})
    pid = int(eventually(lambda: started.exists() and started.read_text()))

    os.kill(pid, signal.SIGKILL)
    record = wait_for_state(single_broker, task_id, "retry")

    assert (record.retried, record.child_deaths) == (0, 1)


def test_a_task_that_another_worker_leases_is_dropped_without_a_write(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["lease_secs"] = 3
    worker = start_worker()
    started = tmp_path / "started"
    task_id = add_task(single_broker, {"do": "hang", "started": str(started)})
    pid = int(eventually(lambda: started.exists() and started.read_text()).split()[0])

    redis.hset(MAIL.task(task_id), "owner", "another user")
    worker.wait_for("lease_lost")
    eventually(lambda: not is_alive(pid))

    assert redis.hgetall(MAIL.task(task_id))[b"state"] == b"active"
    after = wait_for_state(single_broker, add_task(single_broker, "next"), "completed")
    assert after.state == "completed"


def test_finishing_a_task_with_a_lost_lease_is_refused_and_logged(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    started, until = tmp_path / "started", tmp_path / "until"
    task_id = add_task(single_broker, {"do": "wait", "started": str(started), "until": str(until)})
    eventually(started.exists)

    redis.hset(MAIL.task(task_id), "owner", "another user")
    until.touch()
    refusal = worker.wait_for("finish_refused")

    assert refusal["task_id"] == task_id
    assert b"result" not in redis.hgetall(MAIL.task(task_id))


def test_a_run_that_was_recovered_before_it_finished_is_counted_once(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    started, until = tmp_path / "started", tmp_path / "until"
    task_id = add_task(single_broker, {"do": "wait", "started": str(started), "until": str(until)}, max_retry=0)
    eventually(started.exists)

    def recover() -> list:
        redis.zadd(MAIL.lease, {task_id: 1})
        return single_broker.run(recover_lost(single_broker, ["mail"], LeaselessWatch(), grace_s=0))

    eventually(recover)
    until.touch()
    worker.wait_for("finish_refused")
    worker.stop()

    (counters,) = single_broker.run(read_run_counters(["mail"]))
    assert +counters.by_outcome() == {RunOutcome.LOST: 1}


def _deaths(redis: redis_py.Redis, task_id: str) -> int:
    return int(redis.hget(MAIL.task(task_id), "child_deaths") or 0)


def _make_due(redis: redis_py.Redis, task_id: str) -> None:
    """Forward due tasks."""
    redis.zrem(MAIL.retry, task_id)
    redis.hset(MAIL.task(task_id), "state", "pending")
    redis.lpush(MAIL.pending, task_id)

"""How runs end that do not end by themselves: timeouts, cancels, dying children, lost leases."""

import os
import signal
from pathlib import Path

import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.cancelling import cancel
from runqy.broker.keys import QueueKeys
from runqy.broker.reading import find_task
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, eventually, is_alive, wait_for_state, wait_task
from tests.workers.repositories import Repository

MAIL = QueueKeys("mail")

COOPERATIVE = """
import json, sys, os
print(json.dumps({"status": "ready", "accepts": ["cancel"]}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("control") == "cancel":
        answer = {"task_id": asked["task_id"], "result": None, "error": "gave up", "retry": True}
    elif asked["payload"] == "wait":
        open(os.environ["STARTED"], "w").close()
        continue
    else:
        answer = {"task_id": asked["task_id"], "result": os.getpid(), "error": None, "retry": False}
    print(json.dumps(answer), flush=True)
"""


def test_time_that_is_over_ends_the_child_and_all_that_it_started(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    started = tmp_path / "started"
    task_id = add_task(single_broker, {"do": "spawn", "started": str(started)}, timeout_s=1)

    record = wait_for_state(single_broker, task_id, "retry", "archived")

    processes = [int(word) for word in started.read_text().split()]
    assert (record.state, record.error, record.retried) == ("retry", "timed out after 1 s", 1)
    assert len(processes) == 3
    eventually(lambda: not any(map(is_alive, processes)))
    after = wait_for_state(single_broker, add_task(single_broker, "next"), "completed", "archived")
    assert after.state == "completed"


def test_a_deadline_ends_a_run_too(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    payload = {"do": "hang", "started": str(tmp_path / "started")}
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    task_id = add_task(single_broker, payload, deadline_s=single_broker.now_s() + 1, max_retry=0, timeout_s=600)
    record = wait_for_state(single_broker, task_id, "retry", "archived")

    assert (record.state, record.error) == ("archived", "deadline exceeded")


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


def test_a_forged_message_cancels_nothing(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker(RUNQY_CONCURRENCY="2")
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)
    other = add_task(single_broker, wait_task(tmp_path, "other"))
    eventually(lambda: single_broker.run(find_task(other)).state == "active")

    single_broker.client.publish(keys.CANCEL_CHANNEL, running)
    single_broker.run(cancel("mail", other, now_ns=single_broker.now_ns()))
    wait_for_state(single_broker, other, "archived")  # so the message before that one was read, too
    Path(task["until"]).touch()

    assert wait_for_state(single_broker, running, "completed", "archived", "retry").state == "completed"


def test_a_child_that_listens_to_cancel_goes_on_with_the_next_task(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"main.py": COOPERATIVE})
    started = tmp_path / "started"
    server.answer["deployment"] |= {"git_url": repository.url, "env_vars": {"STARTED": str(started)}}
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

    assert record.error.startswith(
        "3 child processes died under this task; of the last: the child process was killed by SIGKILL"
    )
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


def test_a_task_that_another_worker_took_over_is_given_up_without_a_trace(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.answer["lease_secs"] = 3
    worker = start_worker()
    started = tmp_path / "started"
    task_id = add_task(single_broker, {"do": "hang", "started": str(started)})
    pid = int(eventually(lambda: started.exists() and started.read_text()).split()[0])

    redis.hset(MAIL.task(task_id), "owner", "somebody else")
    worker.wait_for("lease_lost")
    eventually(lambda: not is_alive(pid))

    assert redis.hgetall(MAIL.task(task_id))[b"state"] == b"active"
    after = wait_for_state(single_broker, add_task(single_broker, "next"), "completed")
    assert after.state == "completed"


def test_a_finish_for_a_task_that_is_lost_is_refused_and_logged(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    started, until = tmp_path / "started", tmp_path / "until"
    task_id = add_task(single_broker, {"do": "wait", "started": str(started), "until": str(until)})
    eventually(started.exists)

    redis.hset(MAIL.task(task_id), "owner", "somebody else")
    until.touch()
    refusal = worker.wait_for("finish_refused")

    assert refusal["task_id"] == task_id
    assert b"result" not in redis.hgetall(MAIL.task(task_id))


def _deaths(redis: redis_py.Redis, task_id: str) -> int:
    return int(redis.hget(MAIL.task(task_id), "child_deaths") or 0)


def _make_due(redis: redis_py.Redis, task_id: str) -> None:
    """Do what the forwarder does."""
    redis.zrem(MAIL.retry, task_id)
    redis.hset(MAIL.task(task_id), "state", "pending")
    redis.lpush(MAIL.pending, task_id)

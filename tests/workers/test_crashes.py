"""Workers killed at random points lose no task and store no second result."""

import os
import random
import signal
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.stats import count_tasks
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from tests.support.processes import is_alive
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task

pytestmark = pytest.mark.slow

TASKS, KILLS = 80, 8


def test_workers_that_are_killed_lose_nothing(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    server.response["lease_secs"] = 2
    ids = [add_task(single_broker, {"do": "pause", "s": 0.05}, max_retry=1000) for _ in range(TASKS)]
    watch = LeaselessWatch()

    def completed() -> int:
        single_broker.run(recover_lost(single_broker, ["mail"], watch=watch, grace_s=0))
        single_broker.run(forward_due(single_broker, ["mail"]))
        return single_broker.run(count_tasks(["mail"], now_ns=single_broker.now_ns()))[0].completed

    for kill in range(KILLS):
        worker = start_worker(RUNQY_CONCURRENCY="6", RUNQY_PROCESSES="2")
        goal = TASKS * kill // (KILLS + 2) + chance.randrange(3)
        eventually(lambda goal=goal: completed() >= goal, within_s=60, what=worker.log.read_text)
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    start_worker(RUNQY_CONCURRENCY="6", RUNQY_PROCESSES="2")

    eventually(lambda: completed() == TASKS, within_s=60, what=lambda: redis.lrange(QueueKeys("mail").active, 0, -1))
    keys = QueueKeys("mail")
    succeeded = int(redis.get(keys.processed) or 0) - int(redis.get(keys.failed) or 0)
    assert succeeded == TASKS
    assert {redis.hget(keys.task(one), "state") for one in ids} == {b"completed"}
    assert not redis.exists(keys.active, keys.lease, keys.pending, keys.retry, keys.archived)


def test_nothing_of_a_killed_worker_runs_on(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    started = tmp_path / "started"
    add_task(single_broker, {"do": "spawn", "started": str(started)})
    worker = start_worker()
    eventually(lambda: started.exists() and started.read_text())

    os.kill(worker.process.pid, signal.SIGKILL)

    processes = [int(word) for word in started.read_text().split()]
    assert len(processes) == 3
    eventually(lambda: not any(map(is_alive, processes)))


def test_a_task_under_which_three_children_died_has_three_attempts(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["limits"] = {"retry_delay_secs": 0, "retry_max_delay_secs": 1}
    task_id = add_task(single_broker, {"do": "die"})
    start_worker()

    def archived() -> TaskRecord | None:
        single_broker.run(forward_due(single_broker, ["mail"]))
        record = single_broker.run(find_task(single_broker, task_id))
        return record if record.state == "archived" else None

    record = eventually(archived, within_s=60)

    assert (record.attempts, record.child_deaths, record.retried) == (3, 3, 0)

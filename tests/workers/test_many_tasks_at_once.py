"""A worker, its child and Redis with many tasks at once: what is killed loses nothing and charges as promised."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.reader import find_task
from tests.support.redis_client import redis_of
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import WorkerProcess, add_task, wait_for_state
from tests.workers.repositories import Repository

pytestmark = pytest.mark.slow

MAIL = QueueKeys("mail")
CONCURRENT = '{"status":"ready","accepts":["concurrent"],"concurrency":32}'
BATCHES = '{"status":"ready","accepts":["batch"],"batch":{"max_size":8,"max_wait_ms":60000}}'
ONE = '{"status":"ready","accepts":["concurrent"]}'
StartChild = Callable[..., WorkerProcess]


@pytest.fixture
def start(server: FakeServer, start_worker: StartWorker, repository: Repository, tmp_path: Path) -> StartChild:
    """Return a function that starts a worker whose child announces this with its ready line."""
    repository.commit({"main.py": Path(__file__).with_name("concurrent_child.py").read_bytes()})

    def start_child(ready: str, **settings: str) -> WorkerProcess:
        env = {"READY": ready, "FOLDER": str(tmp_path)}
        server.response["deployment"] |= {"git_url": repository.url, "env_vars": env}
        return start_worker(RUNQY_DEPLOYMENT_DIR=str(tmp_path / "own"), **settings)

    return start_child


def pid_of(folder: Path, task_id: str) -> int:
    started = folder / f"{task_id}.started"
    return int(eventually(lambda: started.exists() and started.read_text()))


def test_a_child_that_is_killed_with_32_tasks_charges_none(
    single_broker: Broker, start: StartChild, tmp_path: Path
) -> None:
    start(CONCURRENT)
    ids = [add_task(single_broker, "wait") for _ in range(32)]
    (child,) = {pid_of(tmp_path, one) for one in ids}

    os.kill(child, signal.SIGKILL)
    eventually(lambda: pid_of(tmp_path, ids[0]) != child)
    for one in ids:
        (tmp_path / f"{one}.until").touch()

    for one in ids:
        record = wait_for_state(single_broker, one, "completed", "archived", "retry")
        assert (record.state, record.retried, record.child_deaths, record.attempts) == ("completed", 0, 0, 1)


def test_a_worker_that_is_killed_within_a_batch_charges_each_member_once(
    single_broker: Broker, start: StartChild, tmp_path: Path
) -> None:
    ids = [add_task(single_broker, "wait") for _ in range(8)]
    worker = start(BATCHES)
    eventually((tmp_path / "batches").exists)
    worker.process.kill()
    worker.process.wait()

    for one in ids:
        redis_of(single_broker).zadd(MAIL.lease, {one: 1})
    lost = single_broker.run(recover_lost(single_broker, ["mail"], LeaselessWatch(), grace_s=0))
    start(BATCHES)
    (tmp_path / "until").touch()

    def all_completed() -> bool:
        single_broker.run(forward_due(single_broker, ["mail"]))
        return redis_of(single_broker).zcard(MAIL.completed) == 8

    eventually(all_completed)
    assert len(lost) == 8
    assert {single_broker.run(find_task(single_broker, one)).retried for one in ids} == {1}


def test_another_worker_gets_the_short_tasks_that_a_worker_held_when_a_long_one_began(
    single_broker: Broker, start: StartChild, tmp_path: Path
) -> None:
    short, (long, *held) = [
        [add_task(single_broker, do) for do in todo] for todo in ([None] * 20, ["wait", None, None, None])
    ]
    start(ONE, RUNQY_CONCURRENCY="4")
    pid_of(tmp_path, long)

    eventually(lambda: redis_of(single_broker).lrange(MAIL.pending, 0, -1) == [one.encode() for one in reversed(held)])
    start(ONE)

    for one in (*short, *held):
        record = wait_for_state(single_broker, one, "completed")
        assert (record.retried, record.attempts) == (0, 1)
    (tmp_path / f"{long}.until").touch()
    wait_for_state(single_broker, long, "completed")


def test_a_cancelled_task_ends_and_those_beside_it_go_on(
    single_broker: Broker, start: StartChild, tmp_path: Path
) -> None:
    start(CONCURRENT)
    first, *others = ids = [add_task(single_broker, "wait") for _ in range(3)]
    pids = {pid_of(tmp_path, one) for one in ids}

    single_broker.run(cancel("mail", first, now_ns=single_broker.now_ns()))
    assert wait_for_state(single_broker, first, "archived").error == "canceled"
    for one in others:
        (tmp_path / f"{one}.until").touch()

    for one in others:
        assert wait_for_state(single_broker, one, "completed").attempts == 1
    assert pid_of(tmp_path, add_task(single_broker, 1)) in pids


def test_the_tasks_beside_one_that_cannot_be_cancelled_run_again_unspent(
    single_broker: Broker, start: StartChild, tmp_path: Path
) -> None:
    start(CONCURRENT)
    first, *others = [add_task(single_broker, do) for do in ("stubborn", "wait", "wait")]
    before = {one: pid_of(tmp_path, one) for one in (first, *others)}

    single_broker.run(cancel("mail", first, now_ns=single_broker.now_ns()))

    assert wait_for_state(single_broker, first, "archived").error == "canceled"
    for one in others:
        eventually(lambda one=one: pid_of(tmp_path, one) != before[one])
        (tmp_path / f"{one}.until").touch()
        record = wait_for_state(single_broker, one, "completed")
        assert (record.retried, record.child_deaths, record.attempts) == (0, 0, 1)

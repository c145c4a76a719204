"""A child that dies while it runs many tasks: who runs again, how often it dies, and who is archived."""

from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.queues.stats import count_tasks
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from runqy.broker.workers.heartbeats import list_worker_records
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.processes import add_task, wait_for_record, wait_for_state
from tests.workers.repositories import Repository

pytestmark = pytest.mark.slow

TASKS = 32
CHILD = """
import json, os, sys, threading, time

lock, running = threading.Lock(), 0

def write(descriptor, line):
    os.write(descriptor, json.dumps(line).encode() + b"\\n")

def work(task):
    global running
    with lock:
        running += 1
        together = running
    if task["payload"] == "poison" or task["payload"] == "large" and together > 1:
        os._exit(9)
    time.sleep(0.02)
    with lock:
        running -= 1
    write(1, {"task_id": task["task_id"], "result": together})

with open(os.environ["STARTS"], "a") as starts:
    starts.write("started\\n")
write(1, {"status": "ready", "accepts": ["concurrent"], "concurrency": 32})
for line in sys.stdin:
    task = json.loads(line)
    if "control" not in task:
        threading.Thread(target=work, args=[task]).start()
"""


@pytest.fixture
def starts(server: FakeServer, repository: Repository, tmp_path: Path) -> Path:
    """Return the file in which each start of a child, for up to 32 tasks, is a line."""
    repository.commit({"main.py": CHILD})
    starts = tmp_path / "starts"
    server.response["deployment"] |= {"git_url": repository.url, "env_vars": {"STARTS": str(starts)}}
    server.response["limits"] = {"retry_delay_secs": 0, "retry_max_delay_secs": 1}
    return starts


def wait_for_ends(broker: Broker, ids: list[str]) -> list[TaskRecord]:
    """Wait until all tasks have ended, forwarding their retries as maintenance does."""

    def have_ended() -> bool:
        broker.run(forward_due(broker, ["mail"]))
        counts = broker.run(count_tasks(["mail"], now_ns=broker.now_ns()))[0]
        return counts.completed + counts.archived == len(ids)

    eventually(have_ended, within_s=120)
    return [broker.run(find_task(broker, one)) for one in ids]


def test_one_of_32_tasks_that_kills_its_child_is_archived_and_the_others_complete(
    single_broker: Broker, start_worker: StartWorker, starts: Path
) -> None:
    ids = [add_task(single_broker, "poison" if number == 7 else "ordinary") for number in range(TASKS)]

    worker = start_worker()
    *others, poison = sorted(wait_for_ends(single_broker, ids), key=lambda record: record.state == "archived")

    assert {(one.state, one.attempts, one.retried, one.child_deaths) for one in others} == {("completed", 1, 0, 0)}
    assert {one.shared_deaths for one in others} == {0}
    assert (poison.state, poison.retried, poison.child_deaths) == ("archived", 0, 3)
    assert poison.error == ("the child process exited with status 9\n[3 child processes died while running this task]")
    # Together it runs with those that the worker had leased by then.
    shared, again = [death["tasks"] for death in worker.events("child_died_with_tasks")]
    assert 1 < shared <= TASKS
    assert 1 < again <= TASKS
    eventually(lambda: len(starts.read_text().splitlines()) == 1 + 2 + 3)


def test_tasks_whose_child_dies_whenever_it_runs_several_complete_one_at_a_time(
    single_broker: Broker, start_worker: StartWorker, starts: Path
) -> None:
    ids = [add_task(single_broker, "large") for _ in range(TASKS)]

    start_worker()
    records = wait_for_ends(single_broker, ids)

    assert {(one.state, one.attempts, one.retried, one.child_deaths) for one in records} == {("completed", 1, 0, 0)}
    assert {one.result for one in records} == {b"1"}
    # Two deaths, and more of those tasks that were leased too late for the first.
    deaths = len(starts.read_text().splitlines()) - 1
    assert 2 <= deaths <= 4
    eventually(lambda: list_worker_records(single_broker)[0].shared_deaths == deaths)


def test_a_queue_lowers_the_concurrency_of_a_running_child(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, starts: Path
) -> None:
    server.response["queue"]["revision"] = "1"
    start_worker()
    eventually(lambda: wait_for_record(single_broker, "ready").concurrency == TASKS)

    server.response["deployment"]["child_concurrency"] = 1
    change_configuration(redis, server, "2")
    eventually(lambda: wait_for_record(single_broker, "ready").concurrency == 1)
    ids = [add_task(single_broker, "large") for _ in range(TASKS)]

    assert {wait_for_state(single_broker, one, "completed", "archived").result for one in ids} == {b"1"}
    assert len(starts.read_text().splitlines()) == 1

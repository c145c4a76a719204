"""Accepted tasks survive the killing of workers and of the web server, and the loss of the configuration in Redis."""

import http.client
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from tests.stack.serving import Serve, Worker
from tests.stack.stack import make_queue
from tests.support import environment
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
OF_ITS_PARTS = pytest.mark.release
"""What tests/workers/test_crashes.py, tests/faults/test_processes.py and tests/broker/test_pausing.py show already."""

TASKS = 80
KILLS = 8
RUNS = """\
import json, os, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(task["task_id"] + "\\n")
    time.sleep(0.02)
    while task["payload"].get("waits") and not os.path.exists(os.environ["RUNS"] + ".may_go_on"):
        time.sleep(0.02)
    response = {"task_id": task["task_id"], "result": {"run": time.time_ns()}, "error": None, "retry": False}
    print(json.dumps(response), flush=True)
"""


@pytest.fixture(scope="module")
def shared_server(redis_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Return a server with a queue whose task notes each of its runs; leases are short."""
    folder = tmp_path_factory.mktemp("survival")
    files = make_queue(folder, code=RUNS, settings=f"env_vars: {{RUNS: {folder / 'runs'}}}")
    variables = {"QUEUE_WORKERS_DIR": str(files), "RUNQY_LEASE": "3s"}
    with environment.SERVER.client() as redis:
        redis.flushall()
    server = Serve(folder, "--migrate", **variables)
    try:
        yield server.until_ready()
    finally:
        server.end()


@pytest.fixture
def redis() -> Iterator[redis_py.Redis]:
    """Return a client for the server's Redis, which holds the server's configuration; tasks go with the test."""
    with environment.SERVER.client() as client:
        yield client
        for pattern in ("asynq:{echo}:*", "asynq:t:*"):
            for key in client.scan_iter(pattern):
                client.delete(key)


@pytest.fixture
def server(shared_server: Serve, redis: redis_py.Redis, runs: Path) -> Serve:
    """Return the server, and a queue without tasks and runs."""
    wait_until(shared_server.is_up, timeout_s=60)
    runs.unlink(missing_ok=True)
    runs.with_name(f"{runs.name}.may_go_on").unlink(missing_ok=True)
    return shared_server


@pytest.fixture
def runs(shared_server: Serve) -> Path:
    """Return the file with the id of each run's task."""
    return shared_server.home.parent / "runs"


@pytest.fixture
def start_worker(server: Serve) -> Iterator[Callable[[], Worker]]:
    """Return a function that starts a worker for the queue; all share one deployment."""
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(server, "echo", server.home.parent))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def enqueue(server: Serve, *, waits: bool = False) -> str | None:
    """Enqueue a task, which optionally waits for permission to continue; return its id if it was accepted."""
    body = {"queue": "echo", "data": {"waits": waits}, "max_retry": 50}
    try:
        status, response = server.request("POST", "/queue/add", body)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return str(response["info"]["id"]) if status == 200 else None


def states(redis: redis_py.Redis) -> dict[str, int]:
    """Return how many ids each index of the queue lists."""
    queue = QueueKeys("echo")
    return {
        "pending": redis.llen(queue.pending),
        "active": redis.llen(queue.active),
        "lease": redis.zcard(queue.lease),
        "retry": redis.zcard(queue.retry),
        "archived": redis.zcard(queue.archived),
        "completed": redis.zcard(queue.completed),
    }


def assert_each_completed_once(redis: redis_py.Redis, server: Serve, ids: list[str]) -> None:
    """Wait until all tasks have ended, and compare what is left with what was accepted."""
    wait_until(lambda: states(redis)["completed"] >= len(ids), timeout_s=150)
    nothing = dict.fromkeys(("pending", "active", "lease", "retry", "archived"), 0)
    assert states(redis) == {**nothing, "completed": len(ids)}
    assert {one.decode() for one in redis.zrange(QueueKeys("echo").completed, 0, -1)} == set(ids)
    for task_id in ids:
        _, response = server.request("GET", f"/queue/{task_id}")
        assert response["info"]["state"] == "completed"
        assert response["info"]["result"]["run"] > 0


@OF_ITS_PARTS
def test_no_task_is_lost_or_completed_twice_when_workers_are_killed(server, start_worker, redis, runs):
    seed = int(os.environ.get("RUNQY_TEST_SEED") or time.time_ns())
    print(f"RUNQY_TEST_SEED={seed}")
    chance = random.Random(seed)
    worker = start_worker()
    ids = [task_id for task_id in (enqueue(server) for _ in range(TASKS)) if task_id]
    assert len(ids) == TASKS

    for _ in range(KILLS):
        done = states(redis)["completed"]
        wait_until(lambda done=done: states(redis)["completed"] > done or done == TASKS, timeout_s=60)
        time.sleep(chance.uniform(0, 0.1))  # the kill comes at any point of a run
        worker.restart()

    assert_each_completed_once(redis, server, ids)
    run_ids = Counter(runs.read_text().split())
    assert run_ids.keys() == set(ids)
    assert TASKS <= run_ids.total() <= TASKS + KILLS * 4  # the number that the worker held each time


@OF_ITS_PARTS
def test_accepted_tasks_survive_the_killing_of_the_web_server(server, start_worker, redis):
    start_worker()
    ids: list[str] = []
    refused = 0
    for number in range(TASKS):
        if number in (TASKS // 4, TASKS // 2):
            wait_until(server.is_up, timeout_s=60)
            os.kill(server.pid_of("gunicorn"), signal.SIGKILL)
        task_id = enqueue(server)
        if task_id is None:
            refused += 1
            wait_until(server.responds, timeout_s=60)
        else:
            ids.append(task_id)

    assert refused < 10
    wait_until(server.is_up, timeout_s=60)
    unanswered = states(redis)["pending"] + states(redis)["completed"] - len(ids)
    assert unanswered <= refused  # one that was stored, and whose response was lost
    wait_until(lambda: states(redis)["pending"] + states(redis)["active"] == 0, timeout_s=60)
    for task_id in ids:
        assert server.request("GET", f"/queue/{task_id}")[1]["info"]["state"] == "completed"


@OF_ITS_PARTS
def test_a_queue_that_is_paused_under_load_stays_paused_after_its_worker_was_killed(server, start_worker, redis, runs):
    worker, may_go_on = start_worker(), runs.with_name(f"{runs.name}.may_go_on")
    ids = [enqueue(server, waits=number >= TASKS // 4) for number in range(TASKS)]
    wait_until(lambda: states(redis)["completed"] > TASKS // 8)

    status, _ = server.request("POST", "/api/cli/queues/echo/pause")
    seconds, microseconds = redis.time()
    killed = {seen["worker_id"] for seen in workers(server)}
    worker.restart()
    wait_until(lambda: any(seen["state"] == "ready" for seen in workers(server) if seen["worker_id"] not in killed))
    wait_until(lambda: states(redis)["active"] == 0)  # those of the killed worker were recovered
    paused = states(redis)
    started_ns = [int(redis.hget(QueueKeys("echo").task(task_id), "started") or 0) for task_id in ids]
    may_go_on.touch()
    server.request("POST", "/api/cli/queues/echo/unpause")

    assert status == 200
    assert 0 < paused["completed"] < TASKS
    assert paused["pending"] + paused["retry"] == TASKS - paused["completed"]
    assert max(started_ns) <= seconds * 10**9 + microseconds * 1000
    assert_each_completed_once(redis, server, ids)


def workers(server: Serve) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.request("GET", "/api/cli/workers")[1]["workers"]
    return found


def test_configuration_and_workers_come_back_after_flushall(server, start_worker, redis):
    start_worker()
    assert server.request("GET", f"/queue/{enqueue(server)}?wait=30")[1]["info"]["state"] == "completed"

    redis.flushall()

    task_id = enqueue(server)
    assert task_id, "enqueueing goes on with what the server knows"
    assert server.request("GET", f"/queue/{task_id}?wait=30")[1]["info"]["state"] == "completed"
    wait_until(lambda: redis.hexists(keys.QUEUE_REVISIONS, "echo"))
    wait_until(lambda: redis.zcard(keys.WORKER_RECORDS) == 1)

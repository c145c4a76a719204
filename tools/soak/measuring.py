"""What the parts that measure share: a queue whose tasks do nothing, times of requests, and recovery after a fault."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak.api import Client
from tools.soak.checker import ENDED
from tools.soak.load import Load
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.stack import DEFAULT_PARTS, Stack, StackParts, running_stack

NOOP_QUEUES = """queues:
  noop: {{priority: 1, mode: long_running, deployment: {deployment}}}
"""
NOOP_CHILD = """import json, sys
print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    print('{"task_id":"%s","result":null,"error":null,"retry":false}' % json.loads(line)["task_id"], flush=True)
"""
BATCH = 1_000
DRAIN_S = 120.0
GIVEN_UP_S = 120.0


@contextmanager
def noop_stack(report: Report, rng: random.Random, parts: StackParts = DEFAULT_PARTS) -> Iterator[Stack]:
    """Run a stack with one queue, whose tasks do nothing."""
    with running_stack(report, rng, parts) as stack:
        stack.commit({"main.py": NOOP_CHILD})
        stack.write_queue_file(NOOP_QUEUES)
        client = stack.client()
        client.post("/api/cli/configs/reload")
        client.close()
        yield stack


def fill(client: Client, queue: str, count: int) -> None:
    for start in range(0, count, BATCH):
        jobs: list[dict[str, object]] = [{}] * min(BATCH, count - start)
        client.post("/queue/add-batch", {"queue": queue, "jobs": jobs})


def time_requests(send: Callable[[], object], count: int) -> list[float]:
    """Return the time in s of each of `count` calls, one after the other."""
    times = []
    for _ in range(count):
        began_s = time.perf_counter()
        send()
        times.append(time.perf_counter() - began_s)
    return times


def rate_of_worker(stack: Stack, redis: redis_py.Redis, name: str, count: int) -> float:
    """Start a worker, return how many tasks a second it completes once it is warm, and end it."""
    completed = QueueKeys("noop").completed
    start = int(redis.zcard(completed))
    worker = stack.add_worker(name, queues="noop", RUNQY_CONCURRENCY="8", RUNQY_PROCESSES="1")
    wait_for(lambda: redis.zcard(completed) > start + count // 10, DRAIN_S, f"{name} begins")
    begun, began_s = int(redis.zcard(completed)), time.monotonic()
    wait_for(lambda: redis.zcard(completed) >= start + count, DRAIN_S, f"{name} goes on")
    rate = (int(redis.zcard(completed)) - begun) / (time.monotonic() - began_s)
    worker.end()
    return rate


def measure_recovery(stack: Stack, load: Load, *, queue: str = "canary") -> tuple[float, float]:
    """Return the seconds until a task is accepted, and until it has ended."""
    client = stack.client(timeout_s=3)
    began_s = time.monotonic()
    (task_id,) = load.create(client, "canary", queue=queue, patience_s=GIVEN_UP_S) or [""]
    accepted_s = time.monotonic() - began_s
    while task_id and time.monotonic() - began_s < GIVEN_UP_S:
        info = client.send("GET", f"/queue/{task_id}?wait=2").content.get("info", {})
        if info.get("state") in ENDED:
            break
        time.sleep(0.05)
    client.close()
    return accepted_s, time.monotonic() - began_s

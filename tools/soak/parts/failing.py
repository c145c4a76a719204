"""Thousands of tasks fail together: their retries are spread over time, and new tasks are served meanwhile."""

import time
from collections import Counter
from functools import partial

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak.api import Client, idempotency_key
from tools.soak.checker import check
from tools.soak.draining import collect, drain
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report, percentiles
from tools.soak.stack import Stack, running_stack

PART = "failing"
QUEUE_FILE = """queues:
  steady: {{sub_queues: [{{name: high, priority: 6}}, {{name: low, priority: 2}}], deployment: {deployment}}}
"""
QUEUES = ("steady_high", "steady_low")
LIMITS = "{max_retry: 4, retry_delay: 10s, retry_max_delay: 60s, active_timeout: 20s}"
BATCH = 1_000
FRESH_S = 5.0
"""The limit for a new task: it waits for tasks that workers run, but not for all that failed."""
PEAK = 0.35
"""The largest share of the retries that may be due within one second. Without jitter they come together."""


def run(options: Options, report: Report) -> None:
    """Let tasks fail once, all at about the same time, and enqueue new ones beside them."""
    with running_stack(report, options.rng(PART)) as stack, stack.redis_client() as redis:
        report.section(f"{options.failing_tasks:,} tasks fail together")
        stack.write_queue_file(QUEUE_FILE, limits=LIMITS)
        client = stack.client(timeout_s=30)
        client.post("/api/cli/configs/reload?prune=true")
        load = Load(stack, options.rng(PART), producers=0)
        _enqueue_failing(client, load, options.failing_tasks)
        began_s = time.monotonic()
        for name in ("worker-a", "worker-b"):
            stack.add_worker(name, queues="steady", RUNQY_CONCURRENCY="16", RUNQY_PROCESSES="2")
        latencies, spread = _serve_fresh(stack, client, load, redis, options.failing_tasks)
        report.figure(PART, "fresh tasks meanwhile", percentiles(latencies))
        report.require(PART, "slowest fresh task", max(latencies), at_most=FRESH_S)
        report.require(PART, "share of the retries due in the fullest second", spread, at_most=PEAK, unit="")
        drained_s = drain(stack, [redis], QUEUES)
        took_s = time.monotonic() - began_s
        report.figure(PART, "all done", "no" if drained_s is None else f"{took_s:.0f} s after the workers started")
        evidence = collect(stack, load, [redis], queues=QUEUES)
        report.add_result(PART, check(evidence))
        client.close()


def _enqueue_failing(client: Client, load: Load, count: int) -> None:
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        jobs = [{"do": "flaky", "failures": 1, "number": idempotency_key()} for _ in range(size)]
        for task_id in client.post("/queue/add-batch", {"queue": "steady_low", "jobs": jobs})["task_ids"]:
            load.record_accepted(task_id, "flaky")


def _serve_fresh(
    stack: Stack, client: Client, load: Load, redis: redis_py.Redis, count: int
) -> tuple[list[float], float]:
    """Run new tasks until most failed ones have come back; return their times, and the largest share of retries in a
    second.
    """
    retry, completed = (getattr(QueueKeys("steady_low"), name) for name in ("retry", "completed"))
    stack.wait_until_ready(2)
    latencies: list[float] = []
    fullest, most_waiting = 0.0, 0
    while redis.zcard(completed) < count / 2:
        began_s = time.monotonic()
        task_ids = load.create(client, "ok", queue="steady_high")
        wait_for(partial(_is_done, client, task_ids[0]), 60, "a fresh task")
        latencies.append(time.monotonic() - began_s)
        scores = [int(pair[1]) for pair in redis.zrange(retry, 0, -1, withscores=True)]
        if len(scores) > most_waiting:
            most_waiting = len(scores)
            fullest = max(Counter(scores).values()) / len(scores)
        time.sleep(0.1)
    return latencies, fullest


def _is_done(client: Client, task_id: str) -> bool:
    info = client.send("GET", f"/queue/{task_id}?wait=5").content.get("info", {})
    return bool(info.get("state") == "completed")

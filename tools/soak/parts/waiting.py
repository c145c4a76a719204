"""A million waiting tasks: enqueueing, dequeueing and listing are as fast as with a thousand."""

import statistics
import time
from functools import partial

from tools.soak.api import Client
from tools.soak.measuring import fill, noop_stack, rate_of_worker, time_requests
from tools.soak.options import Options
from tools.soak.report import Report, percentiles

PART = "waiting"
FEW = 1_000
SAMPLES = 300
DRAINED = 3_000
PAGE_S = 1.0
CANCELS = 100
SLOWER = 2.0
"""Allows for the noise of the machine. A walk over the queue would be a hundred times slower."""
PAGES = (
    "/api/cli/queues",
    "/api/cli/queues/noop",
    "/api/cli/queues/noop/tasks?state=pending&limit=100",
    "/api/cli/queues/noop/tasks?state=pending&limit=100&order=newest",
)


def run(options: Options, report: Report) -> None:
    with noop_stack(report, options.rng(PART)) as stack, stack.redis_client() as redis:
        report.section(f"{options.waiting_tasks:,} waiting tasks")
        client = stack.client(timeout_s=60)
        fill(client, "noop", FEW + DRAINED)
        enqueue_few = time_requests(lambda: client.post("/queue/add", {"queue": "noop", "data": {}}), SAMPLES)
        rate_few = rate_of_worker(stack, redis, "worker-few", DRAINED)
        began_s = time.monotonic()
        fill(client, "noop", options.waiting_tasks)
        rate = options.waiting_tasks / (time.monotonic() - began_s)
        memory_mb = redis.info("memory")["used_memory"] / 1e6
        report.figure(PART, "filling, batches of 1,000", f"{rate:,.0f} tasks/s, Redis then has {memory_mb:,.0f} MB")
        enqueue_many = time_requests(lambda: client.post("/queue/add", {"queue": "noop", "data": {}}), SAMPLES)
        report.figure(PART, f"POST /queue/add beside {FEW:,}", percentiles(enqueue_few))
        report.figure(PART, f"POST /queue/add beside {options.waiting_tasks:,}", percentiles(enqueue_many))
        slower = statistics.median(enqueue_many) / statistics.median(enqueue_few)
        report.require(PART, "enqueueing is slower by", slower, at_most=SLOWER, unit="times")
        for path in PAGES:
            report.require(PART, f"GET {path}", max(time_requests(partial(client.get, path), 5)), at_most=PAGE_S)
        _cancel(client, report)
        rate_many = rate_of_worker(stack, redis, "worker-many", DRAINED)
        report.figure(PART, "one worker", f"{rate_few:,.0f} tasks/s of few, {rate_many:,.0f} of many")
        report.require(PART, "taking is slower by", rate_few / rate_many, at_most=SLOWER, unit="times")
        client.close()


def _cancel(client: Client, report: Report) -> None:
    """Cancel tasks from the middle of the queue, and time each request."""
    page = client.get("/api/cli/queues/noop/tasks?state=pending&limit=1000&order=newest")
    page = client.get(page["next"])
    ids = [task["id"] for task in page["tasks"][-CANCELS:]]
    times = time_requests(lambda: client.send("DELETE", f"/api/cli/tasks/{ids.pop()}"), CANCELS)
    report.figure(PART, f"cancelling {CANCELS} of them", percentiles(times))

"""A task prints ten thousand lines a second: the log is bounded, and other tasks are not slowed down."""

import statistics

from runqy.broker.keys import QueueKeys
from tools.soak.load import Load
from tools.soak.measuring import time_requests
from tools.soak.options import Options
from tools.soak.processes import resident_mb, wait_for
from tools.soak.report import Report, percentiles
from tools.soak.stack import Stack, running_stack

PART = "logs"
LINES_A_SECOND, SECONDS = 10_000, 20
SAMPLES = 40
LOG_MB = 4.0
"""Workers log about 200 lines a second, and up to a thousand at once."""
REDIS_MB = 5.0
WORKER_MB = 40.0
SLOWER_S = 0.25


def run(options: Options, report: Report) -> None:
    """Time tasks of a quiet queue without the noise and with it, in the same worker."""
    with running_stack(report, options.rng(PART)) as stack, stack.redis_client() as redis:
        report.section(f"A task that prints {LINES_A_SECOND:,} lines a second for {SECONDS} s")
        worker = stack.add_worker("worker-a", queues="steady,canary", RUNQY_PROCESSES="1")
        stack.wait_until_ready(2)
        quiet = _times(stack, options)
        before_mb, before_redis = resident_mb(worker.pid), redis.info("memory")["used_memory"]
        before_log = worker.log.stat().st_size
        client = stack.client()
        payload = {"do": "log", "lines_a_second": LINES_A_SECOND, "s": SECONDS, "number": "log"}
        task_id = client.post("/queue/add", {"queue": "steady_high", "data": payload, "timeout": 120})["info"]["id"]
        wait_for(lambda: redis.llen(QueueKeys("steady_high").active), 20, "the task starts")
        noisy = _times(stack, options)
        is_running = client.get(f"/queue/{task_id}")["info"]["state"] == "active"
        report.figure(PART, "a task beside it, before", percentiles(quiet))
        report.figure(PART, "a task beside it, meanwhile", percentiles(noisy))
        slower_s = statistics.median(noisy) - statistics.median(quiet)
        report.require(PART, "a task beside it is slower by", slower_s, at_most=SLOWER_S)
        if not is_running:
            report.fail(PART, "the noise ended before the other tasks were timed")
        wait_for(lambda: client.get(f"/queue/{task_id}")["info"]["state"] == "completed", 90, "the task ends")
        grown_mb = (worker.log.stat().st_size - before_log) / 1e6
        report.require(PART, "the log grew by", grown_mb, at_most=LOG_MB, unit="MB")
        if "child_output_cut" not in worker.log.read_text(errors="replace"):
            report.fail(PART, "the log does not record that lines were left out")
        worker_mb = resident_mb(worker.pid) - before_mb
        report.require(PART, "the worker grew by", worker_mb, at_most=WORKER_MB, unit="MB")
        redis_mb = (redis.info("memory")["used_memory"] - before_redis) / 1e6
        report.require(PART, "Redis grew by", redis_mb, at_most=REDIS_MB, unit="MB")
        client.close()


def _times(stack: Stack, options: Options) -> list[float]:
    """Return the times of tasks of another queue, from request to result."""
    client = stack.client()
    load = Load(stack, options.rng(PART), producers=0)

    def run_one() -> None:
        (task_id,) = load.create(client, "ok", queue="canary")
        client.get(f"/queue/{task_id}?wait=30")

    times = time_requests(run_one, SAMPLES)
    client.close()
    return times

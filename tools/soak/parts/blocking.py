"""A child that blocks its interpreter keeps its lease while the timeout allows, then the timeout ends it."""

import time

from runqy.broker.keys import QueueKeys
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.runs import read_runs
from tools.soak.stack import GRACE_S, LEASE_S, RECOVERY_INTERVAL_S, running_stack

PART = "blocking"
TIMEOUT_S = LEASE_S + GRACE_S + RECOVERY_INTERVAL_S + 5
"""Longer than a lease that is not extended: its task would be recovered and run again before the timeout ends it."""
KILL_S = 10.0


def run(options: Options, report: Report) -> None:
    with running_stack(report, options.rng(PART)) as stack, stack.redis_client() as redis:
        report.section(f"A child that ignores SIGTERM and blocks its interpreter, timeout {TIMEOUT_S} s")
        for name in ("worker-a", "worker-b"):
            stack.add_worker(name, queues="steady", RUNQY_CONCURRENCY="1", RUNQY_PROCESSES="1")
        stack.wait_until_ready(2)
        client = stack.client()
        payload = {"do": "block", "s": 600, "number": "blocking"}
        body = {"queue": "steady_high", "data": payload, "timeout": TIMEOUT_S, "max_retry": 0}
        task_id = client.post("/queue/add", body)["info"]["id"]
        wait_for(lambda: read_runs(stack.journal).get(task_id), 20, "the task starts")
        began_s = time.monotonic()
        lease_ends = set()
        while client.get(f"/queue/{task_id}")["info"]["state"] == "active":
            lease_ends.add(redis.zscore(QueueKeys("steady_high").lease, task_id))
            if time.monotonic() - began_s > TIMEOUT_S + 60:
                report.fail(PART, "the timeout did not end the task")
                break
            time.sleep(0.5)
        took_s = time.monotonic() - began_s
        state = client.get(f"/api/cli/queues/steady_high/tasks/{task_id}")
        report.figure(PART, "the lease was extended", f"{len(lease_ends)} times")
        report.require(PART, "ended after", took_s, at_most=TIMEOUT_S + KILL_S)
        report.figure(PART, "state", f"{state['state']}: {state['last_err']}")
        runs = read_runs(stack.journal)[task_id]
        if len(runs) != 1 or state["state"] != "archived" or took_s < TIMEOUT_S - 1:
            report.fail(PART, f"{len(runs)} runs, {state['state']} after {took_s:.1f} s")
        after_s = time.monotonic()
        load = Load(stack, options.rng(PART), producers=0)
        for _ in range(4):
            client.get(f"/queue/{load.create(client, 'ok', queue='steady_high')[0]}?wait=30")
        report.figure(PART, "four tasks afterwards", f"{time.monotonic() - after_s:.1f} s")
        client.close()

"""A queue with many tasks is deleted: the response comes at once, and maintenance continues after it was killed."""

import os
import signal
import time

from tools.soak.api import Client
from tools.soak.measuring import fill, noop_stack
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report

PART = "deletion"
RESPONSE_S = 10.0
KILLS = 3
DELETED_S = 1_800.0


def run(options: Options, report: Report) -> None:
    with noop_stack(report, options.rng(PART)) as stack, stack.redis_client() as redis:
        report.section(f"Deleting a queue with {options.waiting_tasks:,} tasks")
        client = stack.client(timeout_s=60)
        fill(client, "noop", options.waiting_tasks)
        began_s = time.monotonic()
        reply = client.send("DELETE", "/api/cli/configs/noop?force=true")
        report.figure(PART, "status", str(reply.status), passed=reply.status == 202)
        report.require(PART, "response", reply.took_s, at_most=RESPONSE_S)
        left = options.waiting_tasks
        for number in range(KILLS):
            limit = left
            wait_for(lambda limit=limit: _left(client) < limit, 120, "tasks are being deleted")  # type: ignore[misc]
            for pid in stack.maintenance_processes():
                os.kill(pid, signal.SIGKILL)
            left = _left(client)
            report.note(f"killed maintenance for the {number + 1}. time with {left:,} tasks left")
        wait_for(lambda: _left(client) < 0, DELETED_S, "everything is deleted")
        report.figure(PART, "deleted", f"after {time.monotonic() - began_s:.0f} s, with {KILLS} kills of maintenance")
        keys = sum(1 for _ in redis.scan_iter("*{noop}*", count=10_000))
        lookups = sum(1 for _ in redis.scan_iter("asynq:t:*", count=10_000))
        report.figure(PART, "keys of the queue left", str(keys), passed=keys == 0)
        # Left by the steps that were killed. Maintenance removes them later.
        report.require(PART, "lookups left", lookups, at_most=500 * KILLS, unit="")
        client.close()


def _left(client: Client) -> int:
    """Return the number of tasks that are left; -1 once the deletion has ended."""
    reply = client.send_until_clear("GET", "/api/cli/configs/noop/deletion", timeout_s=60)
    return -1 if reply.status == 404 else sum(reply.content["tasks"].values())

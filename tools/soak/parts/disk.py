"""The disk is full where a worker deploys: it reports that, keeps sending heartbeats, and recovers later."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.soak.api import Client
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.stack import running_stack

PART = "disk"
SMALL, LARGE = "1m", "64m"
OBSERVED_S = 12.0
"""Longer than a heartbeat counts."""


def run(options: Options, report: Report) -> None:
    """Deploy to a file system of a megabyte, then make it larger."""
    report.section("A full disk where the worker deploys")
    with running_stack(report, options.rng(PART)) as stack:
        folder = stack.folder / "workers" / "small-disk"
        folder.mkdir(parents=True)
        with _small_disk(folder) as problem:
            if problem:
                report.skip(PART, problem)
                return
            (stack.repository / "large").write_bytes(os.urandom(4 << 20))
            stack.commit({})
            began_s = time.monotonic()
            worker = stack.add_worker("worker-a", queues="canary", RUNQY_DEPLOYMENT_DIR=str(folder))
            client = stack.client()
            wait_for(
                lambda: _record(client).get("state") == "start_failed", 60, "the worker reports that it cannot start"
            )
            record = _record(client)
            report.figure(PART, "reported", f"after {time.monotonic() - began_s:.1f} s: {record['reason'][:100]}")
            if "full" not in record["reason"] and "No space" not in record["reason"]:
                report.fail(PART, f"the reason does not name the disk: {record['reason']}")
            (task_id,) = Load(stack, options.rng(PART), producers=0).create(client, "ok", queue="canary")
            time.sleep(OBSERVED_S)
            later = _record(client)
            if not worker.is_alive() or later["is_stale"] or later["last_beat"] <= record["last_beat"]:
                report.fail(PART, "heartbeats do not go on")
            if client.get(f"/queue/{task_id}")["info"]["state"] != "pending":
                report.fail(PART, "a worker that cannot run a task took it")
            subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(folder)], check=True)
            (stack.repository / "large").unlink()
            stack.commit({})
            began_s = time.monotonic()
            wait_for(lambda: client.get(f"/queue/{task_id}")["info"]["state"] == "completed", 120, "the task runs")
            report.figure(PART, "ran once there was room", f"after {time.monotonic() - began_s:.1f} s")
            worker.end()
            client.close()


def _record(client: Client) -> dict[str, Any]:
    """Return the record of the worker; empty while it is not registered."""
    workers = client.get("/api/cli/workers")["workers"]
    return workers[0] if workers else {}


@contextmanager
def _small_disk(folder: Path) -> Iterator[str]:
    """Mount a small file system on a folder. Gives the reason why that is not possible, or an empty text."""
    if os.geteuid() != 0:
        yield "mounting a small file system needs root"
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        yield f"a small file system cannot be mounted: {done.stderr.strip()}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

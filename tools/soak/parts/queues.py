"""One worker for many queues with the usual limit of open files: all become ready, and cost little while idle."""

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.soak.api import Client
from tools.soak.options import Options
from tools.soak.processes import count_descriptors, cpu_s, descendants_of, resident_mb, wait_for
from tools.soak.report import Report
from tools.soak.runs import read_runs
from tools.soak.stack import QUEUE_FILE, running_stack

PART = "queues"
QUEUES = 150
SOFT_LIMIT = 1_024
READY_S = 900.0
"""For a checkout, an environment and a child for each queue. Seconds on a machine with many cores."""
DONE_S = 120.0
IDLE_S = 30.0
DESCRIPTORS = 24 + 6 * QUEUES + 4 * math.ceil(QUEUES / 16)
"""Those of each queue's child, and the connections of each 16 queues, which share a Redis user."""
THREADS = 3
IDLE_CPU = 0.10  # of a core


def run(options: Options, report: Report) -> None:
    """Start the worker with a low limit, send a task to each queue, and measure the worker while it is idle."""
    with running_stack(report, options.rng(PART)) as stack:
        report.section(f"A worker for {QUEUES} queues, of which it may open {SOFT_LIMIT:,} files")
        names = [f"queue{number:03}" for number in range(QUEUES)]
        queues = "".join(f"  {name}: {{{{priority: 1, deployment: {{deployment}}}}}}\n" for name in names)
        stack.write_queue_file(QUEUE_FILE + queues)
        client = stack.client(timeout_s=60)
        if errors := client.post("/api/cli/configs/reload")["errors"]:
            raise ValueError(errors[0])
        began_s = time.monotonic()
        with _soft_limit(SOFT_LIMIT):
            worker = stack.add_worker("worker-a", queues=",".join(names), RUNQY_CONCURRENCY="1", RUNQY_PROCESSES="1")
        stack.wait_until_ready(QUEUES, timeout_s=READY_S)
        report.figure(PART, "ready", f"{QUEUES} of {QUEUES} after {time.monotonic() - began_s:.0f} s")
        _run_a_task_in_each(client, names, stack.journal, report)
        client.close()

        before_s = cpu_s(worker.pid)
        time.sleep(IDLE_S)
        share = (cpu_s(worker.pid) - before_s) / IDLE_S
        children = descendants_of(worker.pid)
        descriptors = count_descriptors(worker.pid)
        report.require(PART, "descriptors of the worker", descriptors, at_most=DESCRIPTORS, unit="")
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        report.figure(PART, "the worker raised its limit to", f"{soft:,}", passed=soft == hard)
        report.require(PART, "threads of the worker", _count_threads(worker.pid), at_most=THREADS, unit="")
        report.require(PART, "CPU of the idle worker", share * 100, at_most=IDLE_CPU * 100, unit="% of a core")
        report.figure(PART, "memory of the worker", f"{resident_mb(worker.pid):.0f} MB")
        report.figure(PART, "processes below it", f"{len(children)}, {sum(map(resident_mb, children)):.0f} MB")


def _run_a_task_in_each(client: Client, names: list[str], journal: Path, report: Report) -> None:
    payload = {"do": "ok", "number": PART}
    ids = {client.post("/queue/add", {"queue": name, "data": payload})["info"]["id"] for name in names}
    wait_for(lambda: read_runs(journal).keys() >= ids, DONE_S, "each queue runs a task")
    report.figure(PART, "ran a task", f"{len(ids)} of {len(names)}")


@contextmanager
def _soft_limit(count: int) -> Iterator[None]:
    """Limit the open files of processes that are started in the block, unless they raise the limit themselves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _count_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))

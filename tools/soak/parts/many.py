"""32 tasks in one child, and batches, while children, workers, web processes and Redis are killed."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from runqy.broker.keys import QueueKeys
from tools.soak import processes
from tools.soak.api import Client
from tools.soak.options import Options
from tools.soak.processes import ROOT, wait_for
from tools.soak.report import Report
from tools.soak.stack import Stack, running_stack

PART = "many"
QUEUES = {"many": ("python many.py", 0.6), "batches": ("python many.py batch", 0.05)}
"""The command that starts the child of each queue, for 32 tasks at once or two batches of 16, and the seconds that a
task takes: those of a batch run one after another."""
WORKERS = ("worker-a", "worker-b")
TASKS = 2_000
"""For each queue, in each of the two rounds."""
CHILD_KILLS, ALL_KILLS, PAUSE_S = 6, 9, 2.0
PATIENCE_S = 300.0

Kill = Callable[[], None]


def run(options: Options, report: Report) -> None:
    rng = options.rng(PART)
    with running_stack(report, rng) as stack:
        stack.commit({"many.py": (ROOT / "examples" / "protocol" / "main.py").read_text()})
        client = stack.client()
        for name, (command, _) in QUEUES.items():
            limits = {"max_retry": 20, "retry_delay": 1, "retry_max_delay": 2}
            deployment = {"git_url": f"file://{stack.repository}", "startup_cmd": command, "limits": limits}
            client.send("POST", "/api/cli/configs", {"name": name, "priority": 5, "deployment": deployment})
        for name in WORKERS:
            stack.add_worker(name, queues=",".join(QUEUES), RUNQY_CONCURRENCY="32", RUNQY_PROCESSES="1")
        stack.wait_until_ready(len(QUEUES) * len(WORKERS))
        kills = _Kills(stack, rng)
        report.section(f"{TASKS:,} tasks for each queue, and {CHILD_KILLS} kills of children")
        tasks = _run(stack, client, [kills.child], count=CHILD_KILLS, report=report)
        report.require(PART, "retries spent by kills of children", _sum(tasks, "retried"), at_most=0, unit="")
        report.require(PART, "tasks charged for a death", _sum(tasks, "child_deaths"), at_most=CHILD_KILLS, unit="")
        report.section(f"{TASKS:,} more for each, and {ALL_KILLS} kills of children, workers, web processes and Redis")
        faults = [kills.worker, kills.web_process, kills.child, kills.redis]
        tasks = _run(stack, client, faults, count=ALL_KILLS, report=report)
        most = max(task["retried"] for task in tasks)
        report.require(PART, "retries that a task spent", most, at_most=kills.workers, unit="")
        client.close()


class _Kills:
    """Kills processes, chosen at random."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self.workers = 0
        self._stack = stack
        self._rng = rng

    def child(self) -> None:
        below = [pid for worker in self._stack.workers.values() for pid in processes.descendants_of(worker.pid)]
        children = [pid for pid in below if " many.py" in processes.command_of(pid)]
        if children:
            processes.send_signal(self._rng.choice(children), signal.SIGKILL)

    def worker(self) -> None:
        worker = self._rng.choice(list(self._stack.workers.values()))
        worker.kill()
        worker.start()
        self.workers += 1

    def web_process(self) -> None:
        if web := self._stack.web_processes():
            processes.send_signal(self._rng.choice(web), signal.SIGKILL)

    def redis(self) -> None:
        assert self._stack.redis is not None  # noqa: S101 (the stack has its own)
        self._stack.redis.kill()
        self._stack.redis.start()


def _run(stack: Stack, client: Client, faults: Sequence[Kill], *, count: int, report: Report) -> list[dict[str, Any]]:
    """Run tasks under kills. Check that each completed with its own result; return what the API says of them."""
    ids: dict[str, list[str]] = {}
    for queue, (_, task_s) in QUEUES.items():
        jobs = [{"sleep_s": task_s, "result": number} for number in range(TASKS)]
        ids[queue] = client.post("/queue/add-batch", {"queue": queue, "jobs": jobs})["task_ids"]
    for number in range(count):
        time.sleep(PAUSE_S)
        report.note(f"kill -9: {faults[number % len(faults)].__name__}")
        faults[number % len(faults)]()
    tasks = []
    for queue, queue_ids in ids.items():
        wait_for(partial(_have_ended, stack, queue), PATIENCE_S, f"the tasks of {queue} have ended")
        own = [client.get(f"/api/cli/queues/{queue}/tasks/{task_id}") for task_id in queue_ids]
        right = sum(task["state"] == "completed" and task["result"] == n for n, task in enumerate(own))
        report.figure(PART, f"{queue}: completed with their results", f"{right} of {TASKS}", passed=right == TASKS)
        tasks += own
    report.figure(PART, "attempts", str(_sum(tasks, "attempts")))
    return tasks


def _have_ended(stack: Stack, queue: str) -> bool:
    keys = QueueKeys(queue)
    with stack.redis_client() as redis:
        return not (redis.llen(keys.pending) or redis.llen(keys.active) or redis.zcard(keys.retry))


def _sum(tasks: Sequence[dict[str, Any]], name: str) -> int:
    return sum(task[name] for task in tasks)

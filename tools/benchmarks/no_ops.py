"""Compare the worker with that of another commit by tasks that do nothing: how many a second, and their CPU time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tools.benchmarks import baseline
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.server import Server
from tools.benchmarks.stack import Stack, running_stack
from workers.runtime.startup_limits import cpu_time_s

_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A way to empty a queue: how a worker runs the tasks, and how many there are."""

    what: str
    queue: str
    concurrency: int
    tasks: int
    rate_goal: float = 0.0
    cpu_goal: float = 0.0


DRAINS = (
    Drain(what="long_running, one at a time", queue="bench", concurrency=1, tasks=8_000, rate_goal=0.97, cpu_goal=1.05),
    Drain(what="long_running, eight", queue="bench", concurrency=8, tasks=20_000, rate_goal=0.97, cpu_goal=1.05),
    Drain(what="one_shot, one at a time", queue="once", concurrency=1, tasks=30),
    Drain(what="one_shot, eight", queue="once", concurrency=8, tasks=80),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What emptying a queue took."""

    rate: float
    """Tasks a second."""
    cpu_us: float
    """CPU time of the worker and its children for each task."""


def measure_no_ops(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Compare the worker with that of `sampling.against`, in alternating rounds."""
    source = baseline.get_baseline(sampling.against)
    with running_stack(source) as other_stack, other_stack.web() as other, stack.web() as current:
        report.section(f"One warm worker, tasks that do nothing, against commit {sampling.against[:7]}")
        for drain in DRAINS:
            costs, before = _measure(drain, (current, other), sampling)
            rates = [cost.rate for cost in costs], [cost.rate for cost in before]
            report.paired(drain.what, *rates, "tasks/s", goal=drain.rate_goal)
            cpu_us = [cost.cpu_us for cost in costs], [cost.cpu_us for cost in before]
            report.paired("  CPU of each task", *cpu_us, "us", goal=drain.cpu_goal, is_lower_better=True)


def _measure(drain: Drain, servers: Sequence[Server], sampling: Sampling) -> list[list[Cost]]:
    """Return what each server's worker took, by round. Each worker runs alone: an idle one takes CPU time too."""
    costs: list[list[Cost]] = [[] for _ in servers]
    for _ in range(sampling.rounds):
        for server, of_server in zip(servers, costs, strict=True):
            with server.stack.worker(drain.queue, server, concurrency=drain.concurrency) as pid:
                _empty_queue(server, pid, drain.queue, drain.tasks // 4)  # deployed and warm
                of_server.append(_empty_queue(server, pid, drain.queue, drain.tasks))
            server.stack.empty()
    return costs


def _empty_queue(server: Server, pid: int, queue: str, count: int) -> Cost:
    """Enqueue tasks while the queue is paused. Measure from the first that is completed to the last."""
    client, completed, paused = server.stack.redis.client(), f"asynq:{{{queue}}}:completed", f"asynq:{{{queue}}}:paused"
    before = int(client.zcard(completed))
    client.set(paused, 1)
    server.enqueue_many(queue, count)
    cpu_s = cpu_time_s(pid) or 0.0
    client.delete(paused)
    deadline_s, first_s, first, done = time.monotonic() + _TIMEOUT_S, 0.0, 0, 0
    while done < count:
        time.sleep(0.005)
        done = int(client.zcard(completed)) - before
        if done and not first:
            first_s, first = time.perf_counter(), done
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{queue} was not emptied: {(server.stack.folder / 'log').read_text()[-2000:]}")
    rate = (count - first) / (time.perf_counter() - first_s)
    client.close()
    return Cost(rate, ((cpu_time_s(pid) or 0.0) - cpu_s) / count * 1e6)

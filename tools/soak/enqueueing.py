"""Compare the speed of enqueueing while the attempts of tasks are logged and while they are not."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak.api import Client
from tools.soak.evidence import count_unended
from tools.soak.history_load import SteadyLoad
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.sampling import CpuMeter
from tools.soak.stack import Stack

LOGGED, UNLOGGED = "logged", "unlogged"
DRAIN_S = 180.0
GOAL = 0.95
PAUSE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The speed of one connection beside the load."""

    paced_s: float
    """The median time of a request, with pauses between requests."""
    rate: float
    """Requests a second without pauses."""
    load_rate: float
    cpu_us: Mapping[str, float]
    """CPU time per task by kind of process, until all attempts are stored. Less noisy than times on a busy machine."""


def compare_enqueueing(
    stack: Stack, report: Report, part: str, *, rate: float, pairs: int, seconds: float, worker: dict[str, str]
) -> None:
    """Alternate between a queue whose worker logs attempts and one whose worker does not, under the same load.

    Meanwhile one client enqueues single tasks, first with pauses, then as fast as it can. The two workers differ only
    in their scripts in Redis.
    """
    stack.add_worker("worker-logged", queues=LOGGED, **worker)
    stack.add_worker(
        "worker-unlogged",
        queues=UNLOGGED,
        program=("-m", "tools.benchmarks.unlogged", "workers.runtime.main"),
        **worker,
    )
    for queue in (LOGGED, UNLOGGED):
        stack.wait_until_ready(1, queue=queue)
    legs: dict[str, list[Leg]] = {LOGGED: [], UNLOGGED: []}
    with stack.redis_client() as redis:
        for queue in (LOGGED, UNLOGGED):
            _measure(stack, redis, queue, rate=rate, seconds=2)
        for number in range(pairs):
            for queue in (LOGGED, UNLOGGED)[:: 1 if number % 2 else -1]:
                legs[queue].append(_measure(stack, redis, queue, rate=rate, seconds=seconds))
                leg = legs[queue][-1]
                report.note(
                    f"{queue}: p50 {leg.paced_s * 1000:.2f} ms with pauses, {leg.rate:,.0f} requests/s without, "
                    f"beside {leg.load_rate:,.0f} tasks/s in batches"
                )
        if redis.xlen(QueueKeys(UNLOGGED).runs) or not int(redis.get(QueueKeys(UNLOGGED).processed) or 0):
            report.fail(part, "the worker that should log nothing did, or ran nothing")
    logged, unlogged = ([1 / leg.paced_s for leg in legs[queue]] for queue in (LOGGED, UNLOGGED))
    _report_ratio(report, part, "1 s / median time of a request", logged=logged, unlogged=unlogged, goal=GOAL)
    logged, unlogged = ([leg.rate for leg in legs[queue]] for queue in (LOGGED, UNLOGGED))
    _report_ratio(report, part, "requests/s of one client that takes what it gets", logged=logged, unlogged=unlogged)
    _report_cpu(report, part, legs)


def _report_cpu(report: Report, part: str, legs: Mapping[str, Sequence[Leg]]) -> None:
    """Print the CPU time of a task by kind of process: enqueueing and the maintenance beside it are separate there."""
    texts = []
    for kind in legs[LOGGED][0].cpu_us:
        logged, unlogged = (statistics.median(leg.cpu_us[kind] for leg in legs[queue]) for queue in (LOGGED, UNLOGGED))
        texts.append(f"{kind} {logged:.0f} / {unlogged:.0f}")
    report.figure(part, "CPU a task, with history / without", f"{', '.join(texts)} µs")


def _report_ratio(
    report: Report,
    part: str,
    what: str,
    *,
    logged: Sequence[float],
    unlogged: Sequence[float],
    goal: float | None = None,
) -> None:
    """Print a ratio. Without a goal it only informs: on a machine without a free core, maintenance competes with the
    client.
    """
    medians = statistics.median(logged), statistics.median(unlogged)
    pairs = [value / other for value, other in zip(logged, unlogged, strict=True)]
    ratio = medians[0] / medians[1]
    text = (
        f"{ratio:.3f}{f' (at least {goal})' if goal else ''}: {medians[0]:,.0f} and {medians[1]:,.0f}, "
        f"single pairs {min(pairs):.2f} to {max(pairs):.2f}"
    )
    passed = ratio >= goal if goal else None
    report.figure(part, f"enqueueing with history / without: {what}", text, passed=passed)


def _measure(stack: Stack, redis: redis_py.Redis, queue: str, *, rate: float, seconds: float) -> Leg:
    """Enqueue single tasks for some seconds beside the load. Then wait until all tasks have ended and are stored."""
    load = SteadyLoad(stack, {queue: 1.0}, rate=rate)
    meter, began_s = CpuMeter(stack), time.monotonic()
    with load, _client(stack) as client:
        paced_s = _enqueue(client, queue, load, seconds / 2, pause_s=PAUSE_S)
        fast_s = _enqueue(client, queue, load, seconds / 2)
        took_s = time.monotonic() - began_s
    wait_for(lambda: not count_unended([queue], [redis]), DRAIN_S, "tasks end")
    wait_for(lambda: not redis.xlen(QueueKeys(queue).runs), DRAIN_S, "the history catches up")
    count = load.accepted_count + len(paced_s) + len(fast_s)
    return Leg(
        paced_s=statistics.median(paced_s),
        rate=len(fast_s) / sum(fast_s),
        load_rate=load.accepted_count / took_s,
        cpu_us={kind: spent_s / count * 1e6 for kind, spent_s in meter.used_s().items()},
    )


def _enqueue(client: Client, queue: str, load: SteadyLoad, seconds: float, *, pause_s: float = 0.0) -> list[float]:
    """Enqueue single tasks for some seconds; return the time of each request."""
    deadline, times_s = time.monotonic() + seconds, []
    while (began_s := time.monotonic()) < deadline:
        client.post("/queue/add", {"queue": queue, "data": load.make_job()})
        times_s.append(time.monotonic() - began_s)
        time.sleep(pause_s)
    return times_s


@contextmanager
def _client(stack: Stack) -> Iterator[Client]:
    client = stack.client(timeout_s=30)
    try:
        yield client
    finally:
        client.close()

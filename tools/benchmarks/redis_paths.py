"""Compare the broker's batches with raw pipelined script calls on the same Redis."""

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from queues.demand_estimates import estimate_demand
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.health import ping
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.demand import (
    DemandRecord,
    DemandSample,
    count_demand,
    read_demand_records,
    write_demand_records,
)
from runqy.broker.request import Request, raise_error
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.enqueue import NewTask, new_task_id
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.listing import Anchor, list_tasks
from tools.benchmarks.apps.store import STORE
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

BATCH = 100
BATCHES = 100
LONG_LIST = 1_000_000
PAGES = 25
THREADS, BUSY_MS, CALLS = 4, 2, 800
CANCELS = 200
_SINCE_NS = 10**18
PAYLOAD = b'{"prompt":"Hello world","width":1024}'


def measure_redis(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print both rates, then the times of demand, of pages of a long list and of cancels in it."""
    raw, batches = [], []
    for _ in range(sampling.rounds):
        raw.append(_rate(stack, _raw_batch))
        batches.append(_rate(stack, _broker_batch))
    report.section(f"Redis, one client, batches of {BATCH}")
    report.paired("enqueue_many / raw calls with ready-made messages", batches, raw, "tasks/s", goal=0.4)
    _measure_threads(stack, report, sampling)
    _measure_demand(stack, report)
    _measure_pages(stack, report)


def _measure_threads(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print what a thread waits for a PING on the event loop, beside redis-py's client on a connection of its own."""
    ways: dict[str, Callable[[], object]] = {
        "loop": lambda: stack.broker.run(ping()),
        "own": stack.client.ping,
    }
    for threads, busy_ms in ((1, 0), (THREADS, BUSY_MS)):
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(sampling.rounds):
            for name, act in ways.items():
                times[name] += _times_ms(act, threads, busy_ms)
        beside = f", each computes for {busy_ms} ms before it" if busy_ms else ""
        report.section(f"A PING from each of {threads} threads{beside}" if busy_ms else "A PING from a thread")
        for name, quantile in (("median", 0.5), ("99th percentile", 0.99)):
            ours, theirs = (sorted(times[way])[int(len(times[way]) * quantile)] for way in ways)
            report.ratio(f"{name}, on the loop / on an own connection", ours, theirs, "ms", is_lower_better=True)


def _times_ms(act: Callable[[], object], threads: int, busy_ms: float) -> list[float]:
    """Return how long each of many calls took, by threads that compute between them."""

    def call(_: int) -> list[float]:
        times = []
        for _ in range(CALLS // threads):
            until_s = time.thread_time() + busy_ms / 1000
            while time.thread_time() < until_s:
                pass
            began_s = time.perf_counter()
            act()
            times.append((time.perf_counter() - began_s) * 1000)
        return times

    with ThreadPoolExecutor(threads) as pool:
        return [each for times in pool.map(call, range(threads)) for each in times]


def _measure_demand(stack: Stack, report: Report) -> None:
    """Print how long the demand of a queue takes: one round trip, whatever the number of its tasks."""
    queues = ("demand_high", "demand_low")
    for queue in queues:
        stack.client.lpush(QueueKeys(queue).pending, *range(10_000))
    samples = tuple(DemandSample(at_s=30 * n, tasks=n, processed=n, runs=n, run_ms=n) for n in range(11))
    record = DemandRecord(samples=samples, slots_per_worker=1)
    stack.broker.run(write_demand_records({"demand": record.encode()}, removed=[]))
    report.section("Demand of a queue with two sub-queues, 20,000 pending")
    report.baseline("a PING", _median_ms(lambda: stack.broker.run(ping())), "ms")
    report.baseline("the demand", _median_ms(lambda: _read_demand(stack, queues)), "ms")
    stack.empty()


def _read_demand(stack: Stack, queues: Sequence[str]) -> None:
    requests: list[Request[Any]] = [count_demand(queues, now_ns=_SINCE_NS), read_demand_records(["demand"])]
    counts, (record,) = map(raise_error, stack.broker.run_all(requests))
    estimate_demand("demand", counts, record, now_s=300)


def _median_ms(act: Callable[[], object]) -> float:
    times = []
    for _ in range(CANCELS * 5):
        start = time.perf_counter()
        act()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def _measure_pages(stack: Stack, report: Report) -> None:
    """Print the times of pages of a long list of pending tasks, from the first to the last."""
    keys, ids = QueueKeys("pages"), [f"task-{number:07}" for number in range(LONG_LIST)]
    for start in range(0, LONG_LIST, 10_000):
        chunk = stack.client.pipeline(transaction=False)
        for number in range(start, start + 10_000):
            content = {"msg": b"", "state": "pending", "pending_since": _SINCE_NS + number}
            chunk.hset(keys.task(ids[number]), mapping=content)
        chunk.lpush(keys.pending, *ids[start : start + 10_000])
        chunk.execute()
    report.section(f"Pages of 30 tasks, {LONG_LIST:,} pending")
    first = _page_ms(stack, None)
    report.baseline("the first page", first, "ms")
    for name, depth in (("in the middle", LONG_LIST // 2), ("at the end", LONG_LIST - 100)):
        anchor = Anchor(id=ids[depth - 1], position=str(_SINCE_NS + depth - 1), next_id=ids[depth], depth=depth)
        report.ratio(f"a page {name}", _page_ms(stack, anchor), first, "ms", is_lower_better=True)
        gone = replace(anchor, depth=depth + 1000)
        report.ratio(
            f"a page {name}, 1,000 tasks taken since", _page_ms(stack, gone), first, "ms", is_lower_better=True
        )
    _measure_cancels(stack, report, ids)
    stack.empty()


def _measure_cancels(stack: Stack, report: Report, ids: Sequence[str]) -> None:
    """Print how long a cancel keeps Redis busy, near the front of a long list and anywhere in it."""
    report.section(f"Redis's time for a cancel, {len(ids):,} pending")
    front = _cancel_ms(stack, ids[:CANCELS])
    report.baseline("of the tasks that run next", front, "ms")
    report.ratio("anywhere", _cancel_ms(stack, ids[CANCELS :: len(ids) // CANCELS]), front, "ms", is_lower_better=True)


def _cancel_ms(stack: Stack, ids: Sequence[str]) -> float:
    """Return the mean time that Redis spends on a cancel."""
    stack.client.config_resetstat()
    for task_id in ids:
        stack.broker.run(cancel("pages", task_id, now_ns=_SINCE_NS))
    return float(stack.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]) / 1000


def _page_ms(stack: Stack, after: Anchor | None) -> float:
    """Return the median time of reading a page."""
    request, times = list_tasks("pages", TaskState.PENDING, limit=30, after=after), []
    for _ in range(PAGES):
        start = time.perf_counter()
        stack.broker.run(request)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def _rate(stack: Stack, run: Callable[[Stack], float]) -> float:
    seconds = sum(run(stack) for _ in range(BATCHES))
    stack.empty()
    return BATCH * BATCHES / seconds


def _raw_batch(stack: Stack) -> float:
    """Return the time of sending a batch of calls that were built before."""
    calls = []
    for _ in range(BATCH):
        task_id = str(uuid.uuid4())
        message = TaskMessage(type="bench", payload=PAYLOAD, id=task_id, queue="bench", retry=3, timeout=1800)
        calls.append(
            STORE(
                task=f"bench:{{bench}}:t:{task_id}",
                pending="bench:{bench}:pending",
                task_id=task_id,
                message=message.SerializeToString(),
                now_ns=stack.broker.now_ns(),
            )
        )
    request = Request(tuple(calls), list)
    start = time.perf_counter()
    stack.broker.run(request)
    return time.perf_counter() - start


def _broker_batch(stack: Stack) -> float:
    """Return the time of a batch as producers send it, with building its messages."""
    tasks = [NewTask(id=new_task_id(), queue="bench", payload=PAYLOAD) for _ in range(BATCH)]
    start = time.perf_counter()
    stack.broker.run(enqueue_many(stack.broker, tasks))
    return time.perf_counter() - start

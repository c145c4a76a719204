"""Measure workers: children that do much at once, and how soon a task of an idle queue is dequeued."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.constants import POLL_S
from runqy.broker.request import raise_error
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue, new_task_id
from runqy.broker.tasks.finish import complete
from runqy.core.environment.connection_urls import RedisTarget
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.server import Server
from tools.benchmarks.stack import Stack

PICKUPS = 300
_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """Work for one child, one at a time in one queue and many at once in another."""

    what: str
    queues: tuple[str, str]
    tasks: tuple[int, int]
    goal: float


MANY = (
    Many(what="32 sleeps of 100 ms at once", queues=("sleep1", "sleep32"), tasks=(20, 960), goal=28),
    Many(
        what="5 ms + 0.1 ms for each of up to 64 in a batch", queues=("model", "batched"), tasks=(400, 2_000), goal=10
    ),
)


def measure_workers(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Compare children that work on many tasks at once with one at a time, and measure how soon tasks are dequeued."""
    with stack.web() as current:
        report.section("One warm child, against one task at a time")
        for many in MANY:
            one, at_once = _many_rates(many, current, sampling)
            report.paired(many.what, at_once, one, "tasks/s", goal=many.goal)
        report.section("From enqueue to the end of the task on an idle queue")
        with stack.worker("bench", current, concurrency=1):
            _empty_queue(current, "bench", 1)
            _report_pickups(report, "one worker, to its result", _round_trips(stack))
    for loops in (1, 200):
        with _idle_loops(stack, loops) as picked_up:
            _report_pickups(report, f"{loops} idle broker loop(s), to the dequeue", _pickups(stack, picked_up))


def _many_rates(many: Many, server: Server, sampling: Sampling) -> list[list[float]]:
    """Return the rates of both queues, by round."""
    rates: list[list[float]] = [[], []]
    with server.stack.worker(",".join(many.queues), server, concurrency=None):
        for queue in many.queues:
            _empty_queue(server, queue, 10)  # deployed and warm
        for _ in range(sampling.rounds):
            for of_queue, queue, tasks in zip(rates, many.queues, many.tasks, strict=True):
                of_queue.append(_empty_queue(server, queue, tasks))
    server.stack.empty()
    return rates


def _empty_queue(server: Server, queue: str, count: int) -> float:
    """Enqueue tasks and wait until all are completed; return tasks a second after the last was enqueued."""
    client, completed = server.stack.redis.client(), f"asynq:{{{queue}}}:completed"
    before = int(client.zcard(completed))
    server.enqueue_many(queue, count)
    early = int(client.zcard(completed)) - before
    start = time.perf_counter()
    while int(client.zcard(completed)) - before < count:
        if time.perf_counter() > start + _TIMEOUT_S:
            raise TimeoutError(f"{queue} was not emptied: {(server.stack.folder / 'log').read_text()[-2000:]}")
        time.sleep(0.005)
    client.close()
    return (count - early) / (time.perf_counter() - start)


def _round_trips(stack: Stack) -> list[float]:
    """Return the times in ms from enqueueing a task to the message that it ended, one after the other."""
    times = []
    for _ in range(PICKUPS):
        task = NewTask(id=new_task_id(), queue="bench", payload=b"{}")
        subscription = stack.client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(keys.ended_channel(task.id))
        subscription.get_message(timeout=1)
        start = time.perf_counter()
        stack.broker.run(enqueue(task, now_ns=stack.broker.now_ns()))
        while subscription.get_message(timeout=5) is None:
            pass
        times.append((time.perf_counter() - start) * 1000)
        subscription.close()
    return times


def _pickups(stack: Stack, picked_up: dict[str, float]) -> list[float]:
    """Return the times in ms from enqueueing a task until a loop has dequeued it."""
    times = []
    for _ in range(PICKUPS):
        task = NewTask(id=new_task_id(), queue="idle", payload=b"{}")
        start = time.perf_counter()
        stack.broker.run(enqueue(task, now_ns=stack.broker.now_ns()))
        while task.id not in picked_up:
            time.sleep(0.0002)
        times.append((picked_up[task.id] - start) * 1000)
    return times


@contextmanager
def _idle_loops(stack: Stack, count: int) -> Iterator[dict[str, float]]:
    """Run loops that dequeue and complete as workers do. Yields when each task was dequeued, by id."""
    picked_up: dict[str, float] = {}
    stop = threading.Event()
    threads = [threading.Thread(target=_loop, args=(stack, stop, picked_up)) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(3)  # let all of them become idle
    yield picked_up
    stop.set()
    for thread in threads:
        thread.join()
    stack.empty()


def _loop(stack: Stack, stop: threading.Event, picked_up: dict[str, float]) -> None:
    """Dequeue and complete tasks. While the queue is empty, wait for a wake-up or the next poll."""
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", stack.redis.port),)))
    token = new_task_id()
    client = stack.redis.client()
    subscription = client.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe(keys.wake_channel(token))
    while not stop.is_set():
        order = plan_dequeue([QueueWeight(queue="idle")], 1, worker_id=token, wake_token=token)
        taken, _ = broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns()))
        for task in raise_error(taken):
            picked_up[task.lease.task_id] = time.perf_counter()
            broker.run(complete(task.lease, task.message, result=b"null", now_ns=broker.now_ns()))
        if not taken:
            subscription.get_message(timeout=POLL_S)
    subscription.close()
    client.close()
    broker.close()


def _report_pickups(report: Report, what: str, times_ms: list[float]) -> None:
    cuts = statistics.quantiles(times_ms, n=100)
    report.figure(f"{what}, p50", cuts[49], "ms", goal=5.0)
    report.figure(f"{what}, p99", cuts[98], "ms")

"""Measures workers: no-op tasks through real children, and how soon an idle queue's task is picked up."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.redis_paths import measure_redis
from benchmarks.report import Report
from benchmarks.stack import Stack
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.consuming import Share, plan_take, take_tasks
from runqy.broker.enqueue import NewTask, enqueue, new_task_id
from runqy.broker.enqueue_batch import enqueue_many
from runqy.broker.finishing import complete
from runqy.broker.timing import POLL_S

PICKUPS = 300
REAL_OPTIONS = ("-c", "python:runqy.gunicorn_conf")


def measure_workers(stack: Stack, report: Report) -> None:
    """Drain queues through one worker in each mode, and pick up single tasks with 1 and with 200 idle workers."""
    raw = measure_redis(stack, report)
    report.section("One worker, no-op tasks through Python children, against raw pipelined calls")
    with stack.web("runqy.asgi:application", *REAL_OPTIONS) as port:
        for queue, concurrency, count, goal in (
            ("bench", 1, 4_000, 0.0),
            ("bench", 8, 20_000, 0.02),
            ("once", 1, 60, 0.0),
            ("once", 8, 200, 0.0),
        ):
            rate = _drain(stack, port, queue, concurrency=concurrency, count=count)
            mode = "long_running" if queue == "bench" else "one_shot"
            report.ratio(f"{mode}, concurrency {concurrency}", rate, raw, "tasks/s", goal=goal)
        report.section("From enqueue to the end of the task on an idle queue")
        with stack.worker("bench", port, concurrency=1):
            _drained(stack, "bench", 1)
            _report_pickups(report, "one real worker, to its result", _round_trips(stack))
    for loops in (1, 200):
        with _idle_loops(stack, loops) as picked_up:
            _report_pickups(report, f"{loops} idle broker loop(s), to the take", _pickups(stack, picked_up))


def _drain(stack: Stack, port: int, queue: str, *, concurrency: int, count: int) -> float:
    """Return the rate at which a warm worker empties a queue."""
    with stack.worker(queue, port, concurrency=concurrency):
        _drained(stack, queue, concurrency)  # deployed and warm
        return count / _drained(stack, queue, count)


def _drained(stack: Stack, queue: str, count: int) -> float:
    """Queue tasks and wait until all are completed; return the time in s."""
    client = stack.redis.client()
    completed = f"asynq:{{{queue}}}:completed"
    before = int(client.zcard(completed))  # type: ignore[arg-type]
    tasks = [NewTask(id=new_task_id(), queue=queue, payload=b"{}") for _ in range(count)]
    start = time.perf_counter()
    stack.broker.run(enqueue_many(tasks))
    deadline = start + 120
    while int(client.zcard(completed)) - before < count:  # type: ignore[arg-type]
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{queue} was not drained; see {stack.folder / 'log'}")
        time.sleep(0.005)
    client.close()
    return time.perf_counter() - start


def _round_trips(stack: Stack) -> list[float]:
    """Return the times in ms from an enqueue to the notice that the task ended, one after the other."""
    times = []
    for _ in range(PICKUPS):
        task = NewTask(id=new_task_id(), queue="bench", payload=b"{}")
        subscription = stack.broker.pubsub()
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
    """Return the times in ms from an enqueue to a loop's take of it."""
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
    """Run loops that take and complete as workers do; give the times of their takes by task."""
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
    """Take, complete, and when there is nothing wait for a wake-up or the next poll."""
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", stack.redis.port),)))
    token = new_task_id()
    subscription = broker.pubsub()
    subscription.subscribe(keys.wake_channel(token))
    subscription.get_message(timeout=10)
    while not stop.is_set():
        order = plan_take([Share(queue="idle")], 1, worker_id=token, wake_token=token)
        taken, _ = broker.run(take_tasks(order, now_ns=broker.now_ns()))
        for task in taken:
            picked_up[task.hold.task_id] = time.perf_counter()
            broker.run(complete(task.hold, task.message, result=b"null", now_ns=broker.now_ns()))
        if not taken:
            subscription.get_message(timeout=POLL_S)
    subscription.close()
    broker.close()


def _report_pickups(report: Report, what: str, times_ms: list[float]) -> None:
    cuts = statistics.quantiles(times_ms, n=100)
    report.figure(f"{what}, p50", cuts[49], "ms", goal=5.0)
    report.figure(f"{what}, p99", cuts[98], "ms")

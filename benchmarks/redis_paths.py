"""Measures the broker's batches against raw pipelined script calls on the same Redis."""

import statistics
import time
import uuid
from collections.abc import Callable

from benchmarks.apps.store import STORE
from benchmarks.report import Report
from benchmarks.stack import Stack
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.batching import enqueue_many
from runqy.broker.producing import NewTask, new_task_id

BATCH = 100
BATCHES = 100
ROUNDS = 5
PAYLOAD = b'{"prompt":"Hello world","width":1024}'


def measure_redis(stack: Stack, report: Report) -> float:
    """Print both rates; return the raw one, tasks a second, the yardstick for workers."""
    raw, batches = [], []
    for _ in range(ROUNDS):
        raw.append(_rate(stack, _raw_batch))
        batches.append(_rate(stack, _broker_batch))
    report.section(f"Redis, one client, batches of {BATCH}")
    report.yardstick("raw pipelined script calls, messages ready-made", statistics.median(raw), "tasks/s")
    report.ratio("enqueue_many", statistics.median(batches), statistics.median(raw), "tasks/s", goal=0.4)
    return statistics.median(raw)


def _rate(stack: Stack, run: Callable[[Stack], float]) -> float:
    seconds = sum(run(stack) for _ in range(BATCHES))
    stack.empty()
    return BATCH * BATCHES / seconds


def _raw_batch(stack: Stack) -> float:
    """Time sending a batch of calls that were built before."""
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
    start = time.perf_counter()
    stack.broker.link.execute(calls)
    return time.perf_counter() - start


def _broker_batch(stack: Stack) -> float:
    """Time what a producer's process does for a batch, the messages included."""
    tasks = [NewTask(id=new_task_id(), queue="bench", payload=PAYLOAD) for _ in range(BATCH)]
    start = time.perf_counter()
    enqueue_many(stack.broker, tasks)
    return time.perf_counter() - start

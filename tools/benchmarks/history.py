"""Measure the cost of the run history: finishing tasks in Redis, and storing runs in the database."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

from runqy.broker.keys import QueueKeys
from runqy.broker.request import raise_error
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, new_task_id
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import Completion, Failure, complete_all, retry
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.run_entries import make_entry, split_entry
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack
from tools.benchmarks.unlogged import start_logging, stop_logging

QUEUE = "bench"
TASKS = 4000
BATCH = 100
RUNS = 20_000
QUEUE_COUNTS = (1, 100)
PAYLOAD = b'{"order":17,"prompt":"Hello world","width":1024,"height":768}'


def measure_history(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print the rates of both."""
    report.section("Tasks in batches of 100, with the log of runs and without")
    for name, end in (("successes", _succeed), ("failures, one script call each", _fail)):
        logged, unlogged = [], []
        for _ in range(sampling.rounds):
            logged.append(_measure_attempts(stack, end))
            with _without_log():
                unlogged.append(_measure_attempts(stack, end))
        for what, goal in (("enqueue_and_take", 0.95), ("end", 0.0), ("whole_attempt", 0.0)):
            values, others = ([getattr(rates, what) for rates in measured] for measured in (logged, unlogged))
            report.paired(f"{name}: {what.replace('_', ' ')}", values, others, "tasks/s", goal=goal)
    report.section(f"Runs stored in the database, one process, {RUNS:,} runs, of which 2 % failed")
    _report_storing(stack, report, "SQLite", {}, goal=1000)
    if (programs := find_programs()) is not None:
        server = PostgresqlServer(programs).start()
        env = {"DATABASE_URL": server.url}
        subprocess.run(
            [str(stack.source.python), "manage.py", "migrate", "-v0"],
            cwd=stack.source.root,
            env=stack.env | env,
            check=True,
        )
        _report_storing(stack, report, "PostgreSQL", env, goal=5000)
        server.stop()


@dataclass(frozen=True, slots=True)
class AttemptRates:
    """Tasks a second, by the parts of an attempt. Only the end is logged."""

    enqueue_and_take: float
    end: float
    whole_attempt: float


def _measure_attempts(stack: Stack, end: Callable[[Stack, list], None]) -> AttemptRates:
    """Run tasks through an attempt each; return the rates of its parts."""
    stack.empty()
    broker, clock = stack.broker, time.perf_counter
    taking_s = ending_s = 0.0
    for _ in range(0, TASKS, BATCH):
        tasks = [NewTask(id=new_task_id(), queue=QUEUE, payload=PAYLOAD) for _ in range(BATCH)]
        request = plan_dequeue([QueueWeight(queue=QUEUE)], BATCH, worker_id="w")
        began_s = clock()
        broker.run(enqueue_many(broker, tasks))
        taken = raise_error(broker.run(dequeue_tasks(broker, request, now_ns=broker.now_ns()))[0])
        taken_s = clock()
        end(stack, taken)
        taking_s, ending_s = taking_s + taken_s - began_s, ending_s + clock() - taken_s
    return AttemptRates(TASKS / taking_s, TASKS / ending_s, TASKS / (taking_s + ending_s))


def _succeed(stack: Stack, taken: list) -> None:
    completions = [Completion(task.lease, task.message, b'{"ok":true}') for task in taken]
    stack.broker.run(complete_all(completions, now_ns=stack.broker.now_ns()))


def _fail(stack: Stack, taken: list) -> None:
    now_ns = stack.broker.now_ns()
    failure = Failure(error="ValueError: no user 17", retry_at_s=now_ns // 10**9 + 3600)
    stack.broker.run_all([retry(task.lease, task.message, failure, now_ns=now_ns) for task in taken])


def _end_most(stack: Stack, taken: list) -> None:
    _succeed(stack, taken[2:])
    _fail(stack, taken[:2])


@contextmanager
def _without_log() -> Iterator[None]:
    """End attempts by scripts that log nothing, for the duration of the block."""
    stop_logging()
    try:
        yield
    finally:
        start_logging()


def _report_storing(stack: Stack, report: Report, name: str, env: dict[str, str], *, goal: float) -> None:
    """Fill streams, and print how fast another process stores their entries."""
    for count in QUEUE_COUNTS:
        queues = [f"{QUEUE}-{number}" for number in range(count)]
        _fill_streams(stack, queues)
        words = [str(stack.source.python), "-m", "tools.benchmarks.record_history", *queues]
        done = subprocess.run(words, cwd=stack.source.root, env=stack.env | env, check=True, stdout=subprocess.PIPE)
        found = json.loads(done.stdout)
        of = f"{name}, {count} queue{'s' if count > 1 else ''}"
        report.baseline(f"{of}: runs a second", found["rate"], "")
        report.at_least(f"{of}: runs a second of CPU time", found["cpu_rate"], goal=goal)
        report.figure(f"{of}: locks held, p95", found["p95_ms"], "ms", goal=50 if not env else 0)
        report.figure(f"{of}: locks held, longest", found["longest_ms"], "ms")


def _fill_streams(stack: Stack, queues: Sequence[str]) -> None:
    """Append runs as the scripts do, the same number to each queue."""
    stack.empty()
    key = QueueKeys(QUEUE).runs
    _measure_attempts(stack, _end_most)
    entries = [split_entry(fields) for _, fields in stack.client.xrange(key)]
    stack.client.delete(key)
    pipe = stack.client.pipeline(transaction=False)
    for number in range(RUNS):
        entry = entries[number % len(entries)] | {"task": token_hex(16), "run": token_hex(12)}
        pipe.xadd(QueueKeys(queues[number % len(queues)]).runs, make_entry(entry))
    pipe.execute()

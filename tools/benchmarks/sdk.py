"""Measure children that use the SDK, without a worker: what a task costs them, and what many at a time save."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

NO_OP = "from {package} import run, task\n@task\ndef work(payload):\n    return payload\nrun()\n"
SLEEP = """
import asyncio
from runqy_sdk import run, task
@task
async def work(payload):
    await asyncio.sleep(0.1)
run(concurrency={concurrency})
"""
MODEL = """
import time
from runqy_sdk import batch, run
@batch(max_size=16, max_wait_ms=20)
def work(payloads):
    time.sleep(0.005 + 0.0001 * len(payloads))
    return payloads
run()
"""
IMPORT = "import time; t = time.process_time(); import runqy_sdk; print(time.process_time() - t)"
IMPORTS = 9


def measure_sdk(_stack: Stack, report: Report, sampling: Sampling) -> None:
    report.section("Children without a worker")
    with _child(NO_OP.format(package="runqy_sdk")) as own, _child(NO_OP.format(package="runqy_python")) as published:
        own_rates, published_rates = _rates((own, published), sampling.rounds, tasks=20_000)
        report.paired("no-op tasks, against runqy-python", own_rates, published_rates, "tasks/s", goal=1)
    with _child(SLEEP.format(concurrency=32)) as many, _child(SLEEP.format(concurrency=1)) as one:
        (rate,), (rate_of_one,) = _rates((many,), 1, tasks=640), _rates((one,), 1, tasks=20)
        report.paired("32 coroutines of 100 ms, against one", rate, rate_of_one, "tasks/s", goal=28)
    with _child(MODEL) as model:
        (batched,), (singly,) = _rates((model,), 1, tasks=2_000, size=16), _rates((model,), 1, tasks=200, size=1)
        report.paired("5 ms + 0.1 ms a member, batches of 16, against one", batched, singly, "tasks/s", goal=10)
    times_ms = [float(subprocess.check_output([sys.executable, "-c", IMPORT])) * 1_000 for _ in range(IMPORTS)]
    report.figure("import runqy_sdk", statistics.median(times_ms), "ms", goal=30)


class _Child:
    """A program that is ready for tasks."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, program],
            env=os.environ | {"RUNQY_CHILD_PROTOCOL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._read(1)

    def rate(self, tasks: int, size: int) -> float:
        """Send tasks, in batches unless the size is 0, and return how many a second the child responded for."""
        lines = [{"task_id": str(number), "payload": number} for number in range(tasks)]
        content: Sequence[object] = lines
        if size:
            content = [{"batch": lines[start : start + size]} for start in range(0, tasks, size)]
        data = b"".join(json.dumps(line).encode() + b"\n" for line in content)
        started_s = time.perf_counter()
        writer = threading.Thread(target=self._write, args=(data,))
        writer.start()
        self._read(tasks)
        writer.join()
        return tasks / (time.perf_counter() - started_s)

    def end(self) -> None:
        self._process.communicate()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _read(self, lines: int) -> None:
        assert self._process.stdout
        for _ in range(lines):
            self._process.stdout.readline()


@contextmanager
def _child(source: str) -> Iterator[_Child]:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "main.py"
        program.write_text(source)
        child = _Child(program)
        yield child
        child.end()


def _rates(children: Sequence[_Child], rounds: int, *, tasks: int, size: int = 0) -> list[list[float]]:
    """Return the rates of each child, by round."""
    for child in children:
        child.rate(tasks // 10, size)
    by_round = [[child.rate(tasks, size) for child in children] for _ in range(rounds)]
    return [list(rates) for rates in zip(*by_round, strict=True)]

"""Measure what a stack at rest costs: `runqy up` with the examples and two web processes. Linux only."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import free_port
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import ROOT, Stack
from tools.soak.processes import command_of, cpu_s, descendants_of, resident_mb, wait_for

MEASURED_S = 60.0
SETTLED_S = 15.0
"""After the start: duties that found work wake less often by then."""
_START_S = 180.0
_PROGRAMS = {
    "maintenance": "run_maintenance",
    "worker": "workers.runtime.main",
    "web": "runqy.server.dataplane.gunicorn_app",
    "Valkey": "valkey",
    "supervisor": "runqy.cli",
}
"""What the command line of each kind of process contains, of which the first is taken."""


def measure_idle(_stack: Stack, report: Report, _sampling: Sampling) -> None:
    """Start the examples, wait until they are ready, and measure for a minute in which nothing happens."""
    with tempfile.TemporaryDirectory(prefix="runqy-idle-") as folder, _running_examples(Path(folder)) as pid:
        time.sleep(SETTLED_S)
        before_s = {each: cpu_s(each) for each in (pid, *descendants_of(pid))}
        time.sleep(MEASURED_S)
        percent: dict[str, float] = defaultdict(float)
        resident: dict[str, float] = defaultdict(float)
        for each, spent_s in before_s.items():
            kind = _kind_of(each)
            percent[kind] += (cpu_s(each) - spent_s) / MEASURED_S * 100
            resident[kind] += resident_mb(each)
    report.section(f"At rest, `runqy up` with the examples and two web processes, over {MEASURED_S:.0f} s")
    for kind in sorted(percent, key=lambda kind: -resident[kind]):
        report.figure(f"{kind}: processor", percent[kind], "%")
        report.figure(f"{kind}: resident memory", resident[kind], "MB")
    report.figure("processor", sum(percent.values()), "%", goal=3.5)
    report.figure("resident memory", sum(resident.values()), "MB", goal=450)


@contextmanager
def _running_examples(folder: Path) -> Iterator[int]:
    """Run `runqy up` with the SDK of this clone until the end of the block. Yields its pid."""
    wheels, output = folder / "wheels", folder / "output"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", wheels, ROOT / "sdk"], check=True)
    prefixes = ("RUNQY_", "DATABASE_", "REDIS_", "QUEUE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {
        "RUNQY_HOME": str(folder / "home"),
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "2",
        "PIP_FIND_LINKS": str(wheels),
    }
    with output.open("wb") as file:
        command = [sys.executable, "-P", "-m", "runqy.cli", "up"]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file)
    try:
        wait_for(lambda: "runqy is running" in output.read_text() or process.poll() is not None, _START_S, "runqy up")
        if process.poll() is not None or "failed" in output.read_text():
            raise RuntimeError(output.read_text())
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _kind_of(pid: int) -> str:
    command = command_of(pid)
    return next((kind for kind, words in _PROGRAMS.items() if words in command), "children of the worker")

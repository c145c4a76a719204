"""Measure the CPU time of loading many queues from a file, and of loading them again."""

import resource

from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack, running_stack

QUEUES = 1_000
_QUEUE = """  queue{number}:
    priority: 5
    deployment:
      git_url: https://github.com/example/repo{number}.git
      startup_cmd: python main.py
      env_vars: {{LOG_LEVEL: info}}
      limits: {{max_retry: 3, active_timeout: 30m}}
    input: [{{name: prompt, type: [string], required: true}}]
"""


def measure_queue_files(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Load new and then unchanged queues with the command, in a stack of their own."""
    report.section(f"Loading {QUEUES:,} queues")
    with running_stack() as own:
        folder = own.folder / "many"
        folder.mkdir()
        start_s = _load_s(own, str(folder))
        (folder / "all.yaml").write_text("queues:\n" + "".join(_QUEUE.format(number=n) for n in range(QUEUES)))
        report.figure("CPU time, new", _load_s(own, str(folder)) - start_s, "s", goal=3)
        report.figure("CPU time, unchanged", _load_s(own, str(folder)) - start_s, "s", goal=2)


def _load_s(stack: Stack, folder: str) -> float:
    """Return the CPU time of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    stack.manage("load_queues", folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

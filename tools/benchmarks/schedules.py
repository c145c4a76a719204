"""Measure a pass of maintenance over 10,000 schedules: none is due, and all are."""

from tools.benchmarks.databases import run_with_each_database
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

SCHEDULES = 10_000


def measure_schedules(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print the figures with each database."""
    report.section(f"Schedules, {SCHEDULES:,} of them")
    for name, found in run_with_each_database(stack, "tools.benchmarks.fire_schedules", str(SCHEDULES)):
        report.figure(f"{name}: queries of a pass when none is due", found["idle_queries"], "", goal=1)
        report.figure(f"{name}: such a pass", found["idle_ms"], "ms")
        report.at_least(f"{name}: it uses the index", float(found["is_indexed"]), goal=1)
        report.figure(f"{name}: a schedule that is due", found["due_ms"], "ms")
        report.figure(f"{name}: CPU time of a schedule that is due", found["due_cpu_ms"], "ms", goal=1)
        report.at_least(f"{name}: tasks", found["enqueued"], goal=SCHEDULES)

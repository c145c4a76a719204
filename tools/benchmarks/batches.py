"""Measure a batch of a million members: adding, enqueueing, ends, and its page."""

from tools.benchmarks.databases import run_with_each_database
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

MEMBERS = 1_000_000


def measure_batches(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print the figures with each database."""
    report.section(f"A batch of {MEMBERS:,} members")
    for name, found in run_with_each_database(stack, "tools.benchmarks.fill_batch", str(MEMBERS)):
        report.at_least(f"{name}: members", found["members"], goal=MEMBERS)
        report.figure(f"{name}: added in requests of 10,000", found["added_per_s"], "members/s")
        report.figure(f"{name}: the first such request", found["first_add_s"], "s")
        report.figure(f"{name}: the last one", found["last_add_s"], "s")
        report.figure(f"{name}: enqueued", found["enqueued_per_s"], "members/s")
        report.figure(f"{name}: ends, 1,000 in a transaction", found["ends_per_s"], "ends/s")
        report.figure(f"{name}: its page", found["page_ms"], "ms", goal=200)

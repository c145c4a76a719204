"""Measure the resident memory of a web process after many requests. Linux only."""

from tools.benchmarks import baseline
from tools.benchmarks.load import Traffic, run_loads
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import CONNECTIONS, ENQUEUE, Sampling, get_task, warm_up
from tools.benchmarks.server import Server
from tools.benchmarks.stack import Stack, running_stack

REQUESTS = 200_000
_CHUNK_S = 2.0


def measure_memory(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Send requests that enqueue and read to one web process of each server, and compare their memory."""
    with running_stack(baseline.get_baseline()) as base_stack, base_stack.web(processes=1) as server:
        base_half_mb, base_mb = _memory_after(server)
    with stack.web(processes=1) as server:
        half_mb, whole_mb = _memory_after(server)
    report.section(f"Memory of a web process after {REQUESTS:,} requests")
    report.paired(f"against commit {baseline.NAME}", [whole_mb], [base_mb], "MB", is_lower_better=True)
    report.figure("resident memory", whole_mb, "MB", goal=130)
    report.figure("growth over the second half", max(0.0, whole_mb - half_mb), "MB", goal=3)
    report.figure(f"growth over the second half of commit {baseline.NAME}", max(0.0, base_mb - base_half_mb), "MB")


def _memory_after(server: Server) -> tuple[float, float]:
    """Return the memory in MB after half of the requests, and after all."""
    warm_up(server)
    readings = []
    for _ in range(2):
        sent = 0
        while sent < REQUESTS / 2:
            half = CONNECTIONS // 2
            traffics = [Traffic(ENQUEUE, half), Traffic(get_task(server), half)]
            sent += sum(load.responses for load in run_loads(server.port, traffics, seconds=_CHUNK_S))
            server.stack.empty()
        readings.append(server.memory_mb())
    return readings[0], readings[1]

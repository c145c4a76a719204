"""Measure the pages of the admin on an instance with far more objects than usual."""

import json
import statistics
import subprocess
import time

import httpx2

from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

GOAL_S = 1.0


def measure_admin(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Fill the instance, and print the time of each page."""
    report.section("Admin: 2,000 queues, 200 workers, 100,000 records of the audit")
    words = [str(stack.source.python), "-m", "tools.benchmarks.seed_admin"]
    seeding = subprocess.run(words, cwd=stack.source.root, env=stack.env, check=True, stdout=subprocess.PIPE)
    seeded = json.loads(seeding.stdout)
    with (
        stack.web(processes=1) as server,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{server.port}", cookies={"runqy_session": seeded["session"]}, timeout=60
        ) as client,
    ):
        for name, path in seeded["pages"].items():
            report.figure(name, _median_s(client, path, sampling.rounds), "s", goal=GOAL_S)


def _median_s(client: httpx2.Client, path: str, times: int) -> float:
    """Return the median time of a page, with warm caches."""
    client.get(path)
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        response = client.get(path)
        spans.append(time.perf_counter() - started)
        assert response.status_code in (200, 302), (path, response.status_code)
    return statistics.median(spans)

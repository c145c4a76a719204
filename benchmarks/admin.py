"""Measures the admin's pages on an instance with far more on it than people have."""

import json
import statistics
import subprocess
import sys
import time

import httpx2

from benchmarks.report import Report
from benchmarks.stack import ROOT, Stack

GOAL_S = 1.0
_TIMES = 3


def measure_admin(stack: Stack, report: Report) -> None:
    """Fill the instance, and print how long each page takes."""
    report.section("Admin: 2,000 queues, 200 workers, 100,000 records of the audit")
    words = [sys.executable, "-m", "benchmarks.crowded"]
    filled = json.loads(subprocess.run(words, cwd=ROOT, env=stack.env, check=True, stdout=subprocess.PIPE).stdout)
    with (
        stack.web("runqy.asgi:application", "-c", "python:runqy.gunicorn_conf", "-w", "1") as port,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", cookies={"runqy_session": filled["session"]}, timeout=60
        ) as client,
    ):
        for name, path in filled["pages"].items():
            report.figure(name, _median_s(client, path), "s", goal=GOAL_S)


def _median_s(client: httpx2.Client, path: str) -> float:
    """Return how long a page takes, once everything that is kept has been read."""
    client.get(path)
    spans = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        answer = client.get(path)
        spans.append(time.perf_counter() - started)
        assert answer.status_code in (200, 302), (path, answer.status_code)
    return statistics.median(spans)

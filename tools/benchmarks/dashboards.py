"""Measure the cost of open overviews: sessions that fetch the live parts of the page as often as a browser does."""

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence

import httpx2

from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.server import Server
from tools.benchmarks.stack import Stack
from tools.soak.processes import cpu_s

DASHBOARDS, QUEUES, WORKERS = 10, 50, 20
PARTS = {
    "/admin/overview/live/": 2.0,
    "/admin/overview/charts/?range=1h&queue=": 10.0,
    "/admin/tasks/task/failing/": 10.0,
}
"""The live parts of the page with their intervals in seconds, as in `data-live` of `admin/index.html`."""
WARM_UP_S, MEASURED_S = 12.0, 20.0
GOAL_PERCENT = 10.0


class Dashboard(threading.Thread):
    """A browser with the overview open."""

    def __init__(self, server: Server, session: str, delay_s: float, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[str] = Counter()
        self.spans_s: list[float] = []
        self._base_url = f"http://127.0.0.1:{server.port}"
        self._cookies = {"runqy_session": session}
        self._delay_s = delay_s
        self._stopping = stop

    def run(self) -> None:
        """Fetch each part at its interval, until `stop` is set."""
        now_s = time.monotonic() + self._delay_s
        due_s = {path: now_s + interval_s for path, interval_s in PARTS.items()}
        headers = {"HX-Request": "true"}
        with httpx2.Client(base_url=self._base_url, cookies=self._cookies, headers=headers, timeout=30) as client:
            while True:
                path = min(due_s, key=due_s.__getitem__)
                if self._stopping.wait(max(due_s[path] - time.monotonic(), 0)):
                    return
                due_s[path] += PARTS[path]
                self._fetch(client, path)

    def _fetch(self, client: httpx2.Client, path: str) -> None:
        began_s = time.perf_counter()
        response = client.get(path)
        self.spans_s.append(time.perf_counter() - began_s)
        self.statuses[f"{path.partition('?')[0]} {response.status_code}"] += 1


def measure_dashboards(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Fill the instance, open the dashboards, and print what share of a core they use."""
    report.section(f"{DASHBOARDS} open overviews: {QUEUES} queues, {WORKERS} workers, 500 open alerts")
    counts = [str(count) for count in (QUEUES, WORKERS, DASHBOARDS)]
    words = [str(stack.source.python), "-m", "tools.benchmarks.seed_dashboards", *counts]
    seeding = subprocess.run(words, cwd=stack.source.root, env=stack.env, check=True, stdout=subprocess.PIPE)
    with stack.web() as server:
        stop = threading.Event()
        dashboards = [
            Dashboard(server, session, number / DASHBOARDS * 2, stop)
            for number, session in enumerate(json.loads(seeding.stdout))
        ]
        for dashboard in dashboards:
            dashboard.start()
        time.sleep(WARM_UP_S)
        before = _count_refreshes(dashboards)
        web, redis = _shares(server, stack)
        refreshes = _count_refreshes(dashboards) - before
        stop.set()
        for dashboard in dashboards:
            dashboard.join()
    statuses = sum((dashboard.statuses for dashboard in dashboards), Counter())
    report.failures({text: count for text, count in statuses.items() if not text.endswith(("200", "304"))})
    spans_s = sorted(span_s for dashboard in dashboards for span_s in dashboard.spans_s)
    report.figure("web processes and Redis", 100 * (web + redis), "% core", goal=GOAL_PERCENT)
    report.figure("web processes", 100 * web, "% core")
    report.figure("Redis", 100 * redis, "% core")
    report.figure("processor time of a refresh", 1000 * MEASURED_S * (web + redis) / refreshes, "ms")
    report.figure("response times, median", 1000 * spans_s[len(spans_s) // 2], "ms")
    report.figure("response times, p95", 1000 * spans_s[int(len(spans_s) * 0.95)], "ms")
    report.note(f"load average of the machine, which other work may share: {os.getloadavg()[0]:.1f}")
    report.note(", ".join(f"{text}: {count:,}" for text, count in sorted(statuses.items())))


def _count_refreshes(dashboards: Sequence[Dashboard]) -> int:
    return sum(dashboard.statuses.total() for dashboard in dashboards)


def _shares(server: Server, stack: Stack) -> tuple[float, float]:
    """Return the CPU time that the web processes and Redis use in a second."""
    web, redis = server.web_pids(), [stack.redis.process.pid]
    began = time.monotonic(), _cpu_s(web), _cpu_s(redis)
    time.sleep(MEASURED_S)
    took_s = time.monotonic() - began[0]
    return (_cpu_s(web) - began[1]) / took_s, (_cpu_s(redis) - began[2]) / took_s


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(cpu_s(pid) for pid in pids)

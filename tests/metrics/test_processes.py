"""The metrics of several web processes on one page."""

import signal
import urllib.request
from pathlib import Path

import pytest

from tests.metrics.pages import Samples, parse, value
from tests.support.database import database_variables
from tests.support.environment import ADMIN_KEY, HOME
from tests.support.waiting import wait_until
from tests.support.web import WebProcess

pytestmark = pytest.mark.usefixtures("configuration")


def read(server: WebProcess) -> Samples:
    """Return the metrics that one of the processes shows."""
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return parse(response.read().decode())


def count_unknown_tasks(server: WebProcess) -> float:
    labels = {"route": "/queue/{task_id}", "method": "GET", "status": "404"}
    return value(read(server), "runqy_http_request_duration_seconds_count", **labels) or 0


def gauge_owners(server: WebProcess) -> set[int]:
    """Return the processes whose gauges are part of the page."""
    (folder,) = (path for path in Path(HOME, "metrics").iterdir() if path.name.endswith(f"-{server.process.pid}"))
    return {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}


def test_a_process_that_dies_leaves_its_counts_but_not_its_gauges(tmp_path: Path) -> None:
    server = WebProcess(tmp_path, processes=2, **database_variables())
    try:
        for _ in range(20):
            wait_until(lambda: server.send("/queue/unknown")[0] == 404)  # 503 while a busy machine delays Redis
        wait_until(lambda: count_unknown_tasks(server) == 20)
        wait_until(lambda: len(gauge_owners(server)) == 2)
        victim = server.workers()[0]

        victim.send_signal(signal.SIGKILL)

        wait_until(lambda: victim.pid not in gauge_owners(server))
        wait_until(lambda: len({worker.pid for worker in server.workers()} - {victim.pid}) == 2)
        wait_until(lambda: count_unknown_tasks(server) == 20)  # a page is up to a second old
    finally:
        server.kill()

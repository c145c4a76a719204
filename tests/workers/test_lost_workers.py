"""A worker that ended without notice stays listed, with the tasks that it had."""

import os
import signal
from typing import Any

import pytest

from runqy import redis_connection
from runqy.broker.broker import Broker
from runqy.broker.tasks.inspector import delete_tasks
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import LOST_AFTER_S
from runqy.redis_connection import get_broker
from tasks.duties import Recoverer, RunHistory
from tests.api.client import ApiClient, content
from tests.support.maintenance_duties import MovingClock
from tests.support.staff import staff_client
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.processes import add_task
from tests.workers.repositories import Repository

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]


def find_lost() -> dict[str, Any]:
    """Return the lost worker as the API shows it."""
    (lost,) = content(ApiClient(), "/api/cli/workers")["lost"]
    assert content(ApiClient(), f"/api/cli/workers/{lost['worker_id']}") == lost
    return lost


def test_a_killed_worker_stays_listed_with_what_became_of_its_tasks(
    single_broker: Broker, start_worker: StartWorker, task_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker()
    hung = add_task(single_broker, {"do": "hang", "started": "/dev/null"})
    (record,) = eventually(lambda: [each for each in list_worker_records(single_broker) if each.running])
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert content(ApiClient(), "/api/cli/workers")["lost"] == []

    monkeypatch.setattr(redis_connection, "_check_clock", lambda _: None)  # else it would notice
    MovingClock(monkeypatch).advance(LOST_AFTER_S + 6)
    lost = find_lost()

    assert (lost["worker_id"], lost["queue"], lost["host"]) == (record.worker_id, "mail", record.host)
    assert lost["commit"] == task_repository.git("rev-parse", "HEAD")
    assert lost["last_beat"] >= record.last_beat_s
    assert lost["reason"].endswith("Its last state was ready.")
    held = {"task_id": hung, "queue": "mail", "worker_id": record.worker_id}
    assert lost["held"] == [held | {"state": "active"}]

    Recoverer().run_tick(get_broker())
    RunHistory().run(get_broker())

    assert find_lost()["held"] == [held | {"state": "retry"}]
    page = staff_client("viewer").get("/admin/workers/worker/").content.decode()
    assert "1 worker lost in the last day" in page
    assert "1 retry" in page

    single_broker.run(delete_tasks("mail", [hung]))

    assert find_lost()["held"] == [held | {"state": "deleted", "worker_id": None}]

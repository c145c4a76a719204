"""A worker runs the code of a folder on its machine."""

from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.tasks.record import TaskRecord
from runqy.broker.workers.heartbeats import list_worker_records
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.processes import add_task, wait_for_record, wait_for_state
from tests.workers.repositories import Repository
from tests.workers.test_own_sdk import FILES

HANDLER = """
import os
from runqy_sdk import run, task

VERSION = {version}

@task
def work(payload):
    return [VERSION, os.getcwd(), os.environ["RUNQY_COMMIT"]]

run()
"""


def write(folder: Path, version: int) -> None:
    """Write the code of the queue, as a developer who edits it."""
    files = {f"web/{name}": content for name, content in FILES.items()}
    for name, content in {**files, "web/main.py": HANDLER.format(version=version).encode()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def run_task(broker: Broker) -> TaskRecord:
    return wait_for_state(broker, add_task(broker), "completed")


@pytest.mark.slow
def test_a_worker_runs_the_code_of_a_folder(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    server.response["deployment"] |= {"git_url": "https://127.0.0.1:1/none.git", "code_path": "web"}
    server.response["queue"]["revision"] = "1"
    worker = start_worker(RUNQY_LOCAL_DIR=str(folder))
    reason = wait_for_record(single_broker, "start_failed").reason
    assert reason == f"deployment.local_dir (RUNQY_LOCAL_DIR): {folder} is not a folder on this machine"

    repository = Repository(folder)
    write(folder, version=1)
    first = run_task(single_broker)
    assert first.result == f'[1,"{folder}/web","local"]'.encode()

    write(folder, version=2)
    assert run_task(single_broker).result == first.result
    server.response["release"] = {"number": 2}
    change_configuration(redis, server, "2")
    worker.wait_for("deployed", 2)
    assert run_task(single_broker).result == f'[2,"{folder}/web","local"]'.encode()

    commit = repository.commit({".gitignore": "__pycache__\n"})
    write(folder, version=3)
    server.response["release"] = {"number": 3}
    change_configuration(redis, server, "3")
    eventually(lambda: [one.commit for one in list_worker_records(single_broker)] == [f"{commit}-dirty"])
    worker.wait_for("deployed", 3)
    assert (run_task(single_broker).result or b"").startswith(b"[3,")

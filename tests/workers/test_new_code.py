"""Deploying new code: on request, or because the running code fails."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis as redis_py
from structlog.testing import capture_logs

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.constants import HEARTBEAT_S
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import WorkerState
from tests.support import event_loop
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration, registration_response
from tests.workers.processes import (
    SDK_FILES,
    add_task,
    wait_for_record,
    wait_for_state,
    wait_task,
)
from tests.workers.repositories import Repository
from workers.runtime import deployments
from workers.runtime.deployments import DeploymentManager
from workers.runtime.heartbeat import RunCounts
from workers.runtime.registration import RegisteredWorker
from workers.runtime.settings import WorkerSettings

pytestmark = pytest.mark.slow

WORKING = Path(__file__).with_name("behaviours.py").read_text()
CRASHING = "raise SystemExit('no module of this name')\n"
ASK = {"do": "env"}


@pytest.fixture
def mail(server: FakeServer, redis: redis_py.Redis, repository: Repository) -> Repository:
    """Return the repository of the queue `mail`, whose code works."""
    repository.commit({**SDK_FILES, "main.py": WORKING})
    server.response["deployment"]["git_url"] = repository.url
    server.response["queue"]["revision"] = "1"
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")
    return repository


def commit_that_runs(broker: Broker, **options: Any) -> str:
    """Return the commit that a task runs with."""
    response = wait_for_state(broker, add_task(broker, ASK, **options), "completed").result or b""
    commit: str = json.loads(response)["RUNQY_COMMIT"]
    return commit


def wait_for_commit(broker: Broker, commit: str) -> None:
    """Wait until the worker's children run a commit."""
    eventually(lambda: [one.commit for one in list_worker_records(broker)] == [commit])


def request_redeployment(redis: redis_py.Redis, server: FakeServer, revision: str) -> None:
    """Ask the workers of `mail` for the newest commit."""
    server.response["release"] = {"number": int(revision)}
    change_configuration(redis, server, revision)


def wait_for_a_look(deployments: Path) -> None:
    """Wait until a worker has checked the branch for newer code once more."""
    record = deployments / "mail" / "kept.json"
    before = record.stat().st_mtime_ns
    eventually(lambda: record.stat().st_mtime_ns > before)


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_a_fix_for_code_that_cannot_start_is_deployed_during_the_restart_delay(
    single_broker: Broker, mail: Repository, server: FakeServer, start_worker: StartWorker, mode: str
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    mail.commit({"main.py": CRASHING})
    start_worker(RUNQY_RECOVERY_MAX_RESTARTS="1", RUNQY_RECOVERY_COOLDOWN_PERIOD="1h")
    assert "no module of this name" in wait_for_record(single_broker, "start_failed").reason

    corrected = mail.commit({"main.py": WORKING})

    assert commit_that_runs(single_broker) == corrected
    assert len(server.requests) == 1


def test_unchanged_code_is_not_started_before_its_delay_is_over(
    single_broker: Broker, mail: Repository, start_worker: StartWorker, tmp_path: Path
) -> None:
    mail.commit({"main.py": CRASHING})
    settings = {"RUNQY_RECOVERY_MAX_RESTARTS": "1", "RUNQY_RECOVERY_COOLDOWN_PERIOD": "1h"}
    worker = start_worker(RUNQY_DEPLOYMENT_DIR=str(tmp_path / "own"), **settings)
    eventually(lambda: len(worker.events("child_output")) == 2, what=worker.log.read_text)

    for _ in range(2):
        wait_for_a_look(tmp_path / "own")

    assert len(worker.events("child_output")) == 2


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_the_end_of_a_child_deploys_newer_code(
    single_broker: Broker, mail: Repository, server: FakeServer, start_worker: StartWorker, mode: str
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    start_worker()
    before = commit_that_runs(single_broker)
    newer = mail.commit({"other.txt": "1"})
    assert commit_that_runs(single_broker) == before

    add_task(single_broker, {"do": "exit"})

    wait_for_commit(single_broker, newer)
    assert commit_that_runs(single_broker) == newer


def test_a_redeployment_replaces_children_between_tasks(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    mail: Repository,
    server: FakeServer,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)
    newer = mail.commit({"other.txt": "1"})

    request_redeployment(redis, server, "2")
    wait_for_commit(single_broker, newer)
    assert commit_that_runs(single_broker) == newer  # its child was started beside the one that is busy
    Path(task["until"]).touch()

    record = wait_for_state(single_broker, running, "completed", "retry", "archived", "pending")
    assert (record.state, record.result) == ("completed", b'"waited"')
    assert commit_that_runs(single_broker) == newer


LOCKING = """
import fcntl
from pathlib import Path
folder = Path({folder!r})
lock = (folder / "lock").open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    (folder / "together").touch()
"""
"""A child that notes whether another one is in memory."""


@pytest.mark.parametrize(
    ("mode", "replaces_first"), [("long_running", True), ("long_running", False), ("one_shot", True)]
)
def test_a_process_ends_before_its_successor_starts_only_if_the_queue_says_so(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    mail: Repository,
    server: FakeServer,
    start_worker: StartWorker,
    tmp_path: Path,
    deployments: Path,
    mode: str,
    replaces_first: bool,
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"] |= {"replace_first": replaces_first, "env_vars": {"MODE": mode}}
    mail.commit({"main.py": LOCKING.format(folder=str(tmp_path)) + WORKING})
    start_worker(RUNQY_PROCESSES="1", RUNQY_CONCURRENCY="1")
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)
    together = tmp_path / "together"
    together.unlink(missing_ok=True)  # of one_shot: the probe may have been about to end
    newer = mail.commit({"other.txt": "1"})

    request_redeployment(redis, server, "2")
    eventually(lambda: newer in (deployments / "mail" / "kept.json").read_text())
    if replaces_first:  # nothing happens until the task has ended, in the time in which processes start
        for _ in range(5):
            subprocess.run([sys.executable, "-c", ""], check=True)
    else:
        wait_for_commit(single_broker, newer)
    Path(task["until"]).touch()

    assert wait_for_state(single_broker, running, "completed", "retry", "archived", "pending").state == "completed"
    wait_for_commit(single_broker, newer)
    assert together.exists() is not replaces_first
    assert commit_that_runs(single_broker) == newer


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_code_that_is_being_started_goes_on_with_it_when_only_the_number_of_its_release_changes(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    mail: Repository,
    server: FakeServer,
    start_worker: StartWorker,
    tmp_path: Path,
    mode: str,
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    worker = start_worker(RUNQY_PROCESSES="1")
    before = commit_that_runs(single_broker)
    starts, until = tmp_path / "starts", tmp_path / "until"
    slow = f"import time\nfrom pathlib import Path\nopen({str(starts)!r}, 'a').write('.')\n"
    slow += f"while not Path({str(until)!r}).exists():\n    time.sleep(0.01)\n"
    newer = mail.commit({"main.py": slow + WORKING})
    server.response["release"] = {"number": 2, "commit": newer}
    change_configuration(redis, server, "2")
    eventually(starts.exists)

    server.response["release"] = {"number": 3, "commit": newer}
    change_configuration(redis, server, "3")
    worker.wait_for("registered_again", 2)

    assert commit_that_runs(single_broker) == before
    until.touch()
    eventually(lambda: [one.release for one in list_worker_records(single_broker)] == [3])
    assert starts.read_text() == "."
    assert commit_that_runs(single_broker) == newer


REVERTED, ROLLED_BACK = {"number": 1}, {"number": 3, "goes_back_to": 1}


@pytest.mark.parametrize(
    ("mode", "back"), [("long_running", REVERTED), ("long_running", ROLLED_BACK), ("one_shot", REVERTED)]
)
def test_a_release_that_was_left_gets_no_tasks_while_the_one_before_loads_beside_it(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    mail: Repository,
    server: FakeServer,
    start_worker: StartWorker,
    tmp_path: Path,
    mode: str,
    back: dict[str, int],
) -> None:
    server.response["queue"]["mode"] = mode
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    starts, until = tmp_path / "starts", tmp_path / "until"
    slow = f"import time\nfrom pathlib import Path\nopen({str(starts)!r}, 'a').write('.')\n"
    slow += f"while not Path({str(until)!r}).exists():\n    time.sleep(0.01)\n"
    good = mail.commit({"main.py": slow + WORKING})
    until.touch()
    server.response["release"] = {"number": 1, "commit": good}
    start_worker(RUNQY_PROCESSES="1")
    assert commit_that_runs(single_broker) == good
    bad = mail.commit({"main.py": WORKING})
    server.response["release"] = {"number": 2, "commit": bad}
    change_configuration(redis, server, "2")
    wait_for_commit(single_broker, bad)
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)
    until.unlink()
    started = len(starts.read_text())

    server.response["release"] = back | {"commit": good}
    change_configuration(redis, server, "3")
    eventually(lambda: len(starts.read_text()) > started)  # although the other one is busy
    waiting = add_task(single_broker, ASK)
    Path(task["until"]).touch()
    assert wait_for_state(single_broker, running, "completed", "archived", "retry").result == b'"waited"'
    eventually(lambda: [one.state for one in list_worker_records(single_broker)] == [WorkerState.STARTING])
    until.touch()

    result = json.loads(wait_for_state(single_broker, waiting, "completed").result or b"")
    assert result["RUNQY_COMMIT"] == good
    wait_for_commit(single_broker, good)


@pytest.mark.parametrize(("back", "next_number"), [(REVERTED, 3), (ROLLED_BACK, 4), (ROLLED_BACK, 2)])
def test_a_release_before_that_cannot_be_fetched_leaves_tasks_waiting_and_says_so(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    mail: Repository,
    server: FakeServer,
    start_worker: StartWorker,
    back: dict[str, int],
    next_number: int,
) -> None:
    left = mail.git("rev-parse", "HEAD")
    server.response["release"] = {"number": 2, "commit": left}
    start_worker()
    commit_that_runs(single_broker)

    server.response["release"] = back | {"commit": "f" * 40}
    change_configuration(redis, server, "2")
    eventually(lambda: [one.state for one in list_worker_records(single_broker)] == [WorkerState.START_FAILED])
    waiting = add_task(single_broker, ASK)
    # 2: no worker could go back, and the rollback itself was reverted
    commit = left if next_number == 2 else mail.commit({"other.txt": "1"})
    server.response["release"] = {"number": next_number, "commit": commit}
    change_configuration(redis, server, "3")

    result = json.loads(wait_for_state(single_broker, waiting, "completed").result or b"")
    assert result["RUNQY_COMMIT"] == commit


def test_a_worker_reports_at_once_that_it_runs_another_release(
    single_broker: Broker, redis: redis_py.Redis, mail: Repository, server: FakeServer, start_worker: StartWorker
) -> None:
    worker = start_worker()
    commit_that_runs(single_broker)

    def time_report(number: int) -> float:
        server.response["release"] = {"number": number, "commit": mail.commit({"other.txt": str(number)})}
        change_configuration(redis, server, str(number))
        worker.wait_for("deployed", number)
        began_s = time.monotonic()
        eventually(lambda: [one.release for one in list_worker_records(single_broker)] == [number])
        return time.monotonic() - began_s

    assert any(time_report(number) < HEARTBEAT_S / 2 for number in (2, 3, 4))


def test_a_redeployment_without_a_new_commit_leaves_children_alone(
    single_broker: Broker, redis: redis_py.Redis, mail: Repository, server: FakeServer, start_worker: StartWorker
) -> None:
    worker = start_worker()
    before = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")

    request_redeployment(redis, server, "2")
    worker.wait_for("registered_again")
    request_redeployment(redis, server, "3")
    worker.wait_for("registered_again", 2)

    after = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
    assert before.result == after.result


def test_a_changed_definition_deploys_no_newer_code(
    single_broker: Broker, redis: redis_py.Redis, mail: Repository, server: FakeServer, start_worker: StartWorker
) -> None:
    worker = start_worker()
    before = commit_that_runs(single_broker)
    mail.commit({"other.txt": "1"})
    server.response["limits"]["retry_delay_secs"] = 7

    change_configuration(redis, server, "2")
    worker.wait_for("registered_again")
    change_configuration(redis, server, "3")
    worker.wait_for("registered_again", 2)

    assert commit_that_runs(single_broker) == before


def test_a_failed_redeployment_keeps_the_running_commit_and_reports_why(
    single_broker: Broker, redis: redis_py.Redis, mail: Repository, server: FakeServer, start_worker: StartWorker
) -> None:
    start_worker()
    before = commit_that_runs(single_broker)
    mail.commit({"requirements.txt": "./no-such-folder\n"})

    request_redeployment(redis, server, "2")
    reason = eventually(lambda: next((one.reason for one in list_worker_records(single_broker) if one.reason), ""))

    assert "no-such-folder" in reason
    assert wait_for_record(single_broker, "ready").commit == before
    assert commit_that_runs(single_broker) == before

    corrected = mail.commit({"requirements.txt": ""})
    wait_for_commit(single_broker, corrected)
    assert commit_that_runs(single_broker) == corrected


def test_a_bug_in_a_deployment_is_a_failed_deployment(
    task_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = registration_response(redis_port=6379, git_url=task_repository.url)
    registration = msgspec.convert(response, RegisteredWorker)
    settings = WorkerSettings(server_url="http://localhost", api_key="k", queues=("mail",), deployment_dir=tmp_path)
    consumer = SimpleNamespace(counts=RunCounts(), pool_changed=lambda: None)
    manager = DeploymentManager(settings, consumer, worker_id="w1")  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise RuntimeError("secret in a message")

    monkeypatch.setattr(deployments, "deploy", fail)
    with capture_logs() as logs:
        is_newest = event_loop.run(manager.deploy(registration))

    state, reason = manager.state
    assert (is_newest, state) == (False, WorkerState.START_FAILED)
    assert reason.startswith("unexpected RuntimeError")
    assert "secret" not in reason
    (entry,) = [one for one in logs if one["event"] == "deployment_failed"]
    assert isinstance(entry["exc_info"], RuntimeError)

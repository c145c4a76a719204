"""Children that cannot start."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from tests.support import event_loop
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.pools import child_spec
from tests.workers.processes import wait_for_record
from workers.runtime import startup_limits
from workers.runtime.child import Child
from workers.runtime.startup_limits import StartupLimits

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_a_child_that_cannot_start_is_logged_once_with_its_reason(
    redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, mode: str
) -> None:
    server.response["queue"] |= {"mode": mode, "revision": "1"}
    server.response["deployment"]["env_vars"] = {"START": "crash", "MODE": mode}
    worker = start_worker(RUNQY_RECOVERY_MAX_RESTARTS="0", RUNQY_CONCURRENCY="2", RUNQY_PROCESSES="2")
    eventually(lambda: len(worker.events("child_output")) >= 6)

    (failure,) = worker.events("child_not_started")
    server.response["deployment"]["env_vars"] = {"MODE": mode}
    change_configuration(redis, server, "2")
    end = worker.wait_for("child_started")

    assert failure["level"] == "warning"
    assert failure["error"] == "the child process exited with status 1"
    assert failure["exception"].endswith("cannot import what is needed")
    assert end["failures"] >= 5


def test_the_reason_that_a_child_reports_is_logged(server: FakeServer, start_worker: StartWorker) -> None:
    server.response["deployment"]["env_vars"] = {"START": "fail"}

    failure = start_worker().wait_for("child_not_started")

    assert failure["error"] == "the child process could not start: @load failed: no model here"


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_the_reason_that_a_child_reports_is_recorded_without_secrets(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, mode: str
) -> None:
    code = "import json, os; print(json.dumps({'status': 'error', 'error': 'refused: ' + os.environ['TOKEN']}))"
    server.response["queue"] |= {"mode": mode}
    server.response["vaults"] = {"TOKEN": "s3cret-of-the-vault"}
    server.response["deployment"]["startup_cmd"] = f'python -c "{code}"'

    worker = start_worker()

    record = wait_for_record(single_broker, "start_failed")
    assert record.reason == "the child process could not start: refused: ****"
    assert worker.wait_for("child_not_started")["error"] == record.reason


def test_a_reason_of_any_length_is_recorded_with_its_end(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    code = "import json; print(json.dumps({'status': 'error', 'error': 'é' * 1_000_000 + ' at the end'}))"
    server.response["deployment"]["startup_cmd"] = f'python -c "{code}"'

    start_worker()

    reason = wait_for_record(single_broker, "start_failed").reason
    assert (len(reason), reason[:20], reason[-10:]) == (20_000, "the child process co", "at the end")


def test_a_startup_command_that_does_not_exist_is_logged(server: FakeServer, start_worker: StartWorker) -> None:
    server.response["deployment"]["startup_cmd"] = "no-such-program main.py"

    failure = start_worker().wait_for("child_not_started")

    assert failure["error"] == "the child process exited with status 127"
    assert failure["exception"].endswith("no-such-program: No such file or directory")


class Owner:
    """The owner of a child that kills it when it responds."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def child_responded(self, child: Child, response: object) -> bool:
        child.kill()
        return True

    def child_printed(self, child: Child, data: bytes, *, is_line: bool) -> None:
        pass

    def child_ended(self, child: Child) -> None:
        self.ended.set()


def run_child(folder: Path, code: str, act: Callable[[Child], object] = lambda _: None) -> Child:
    """Start a child, and return it once it has ended."""

    async def run() -> Child:
        owner = Owner()
        child = Child(child_spec(folder, code), owner)  # type: ignore[arg-type]  # it calls back nothing else
        act(child)
        await owner.ended.wait()
        return child

    return event_loop.run(run())


def test_the_first_problem_of_a_child_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_limits, "CHECK_S", 0.05)
    checked = tmp_path / "checked"
    code = """
import json, os, time
print(json.dumps({"status": "error", "error": "no model here"}), flush=True)
while not os.path.exists("checked"):
    time.sleep(0.01)
"""
    check = StartupLimits.check

    def check_late(limits: StartupLimits) -> str:
        if child[0].problem:
            checked.touch()
        return check(limits)

    child: list[Child] = []
    monkeypatch.setattr(StartupLimits, "check", check_late)

    ended = run_child(tmp_path, code, child.append)

    assert ended.reason.partition("\n")[0] == "the child process could not start: no model here"


def test_a_child_that_is_killed_for_its_last_response_has_ended(tmp_path: Path) -> None:
    response = '{"task_id": "t1", "result": 1}'  # without a line break: it is read when the child has ended
    code = f"import sys; sys.stdout.write({response!r})"

    assert run_child(tmp_path, code).has_ended

"""Children that cannot start."""

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.processes import wait_for_record

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

"""What a running worker does when its queue changes."""

import json
import shutil
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.workers.heartbeats import list_worker_records
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer, change_configuration
from tests.workers.processes import (
    SDK_FILES,
    add_task,
    wait_for_record,
    wait_for_state,
    wait_task,
)
from tests.workers.repositories import Repository

pytestmark = pytest.mark.slow

MAIL = QueueKeys("mail")


def test_a_change_of_the_queue_restarts_children_between_tasks(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["queue"]["revision"] = "1"
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")
    worker = start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    server.response["deployment"]["env_vars"] = {"GREETING": "hello"}
    change_configuration(redis, server, "2")
    worker.wait_for("environment_changed")
    Path(task["until"]).touch()

    assert wait_for_state(single_broker, running, "completed", "retry", "pending").state == "completed"
    env = json.loads(wait_for_state(single_broker, add_task(single_broker, {"do": "env"}), "completed").result or b"")
    assert env["GREETING"] == "hello"


@pytest.mark.parametrize("is_notification_lost", [False, True])
def test_a_change_that_children_do_not_feel_leaves_them_alone(
    single_broker: Broker,
    redis: redis_py.Redis,
    server: FakeServer,
    start_worker: StartWorker,
    is_notification_lost: bool,
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    before = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
    server.response["limits"]["retry_delay_secs"] = 500
    server.response["limits"]["retry_max_delay_secs"] = 500

    change_configuration(redis, server, "2", is_notification_lost=is_notification_lost)
    worker.wait_for("registered_again")
    after = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
    failed = wait_for_state(single_broker, add_task(single_broker, {"do": "retry", "text": "x"}), "retry")

    assert before.result == after.result
    assert (failed.score_s or 0) > single_broker.now_s() + 200


def test_a_change_of_the_mode_changes_how_tasks_run(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    server.response["queue"]["mode"] = "one_shot"
    server.response["deployment"]["env_vars"] = {"MODE": "one_shot"}
    change_configuration(redis, server, "2")
    worker.wait_for("environment_changed")
    env = json.loads(wait_for_state(single_broker, add_task(single_broker, {"do": "env"}), "completed").result or b"")

    assert env["RUNQY_TASK_ID"]


def test_a_disabled_queue_is_idle_until_it_is_enabled(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    server.status = 409
    change_configuration(redis, server, "2")
    worker.wait_for("queue_disabled")
    task_id = add_task(single_broker, 2)
    wait_for_record(single_broker, "draining")
    assert redis.hget(MAIL.task(task_id), "state") == b"pending"

    server.status = 200
    assert wait_for_state(single_broker, task_id, "completed").result == b"2"


def test_a_key_that_is_revoked_while_the_worker_runs_ends_it(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_record(single_broker, "ready")
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")

    server.status = 401
    change_configuration(redis, server, "2")

    assert worker.process.wait(60) == 1
    assert list_worker_records(single_broker) == []


def test_a_deployment_that_fails_is_shown_and_tried_again_when_the_queue_changes(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    url = server.response["deployment"]["git_url"]
    server.response["deployment"]["git_url"] = "file:///nowhere/at/all"
    start_worker()

    record = wait_for_record(single_broker, "start_failed")
    server.response["deployment"]["git_url"] = url
    change_configuration(redis, server, "2")

    assert "git ls-remote failed" in record.reason
    assert wait_for_record(single_broker, "ready").reason == ""


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
@pytest.mark.parametrize(("start", "reason"), [("crash", "cannot import what is needed"), ("fail", "no model here")])
def test_code_that_cannot_start_gets_no_task_and_reports_why(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    server: FakeServer,
    start_worker: StartWorker,
    mode: str,
    start: str,
    reason: str,
) -> None:
    server.response["queue"] |= {"mode": mode, "revision": "1"}
    server.response["deployment"]["env_vars"] = {"START": start, "MODE": mode}
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")
    task_id = add_task(single_broker, 1)
    start_worker(RUNQY_RECOVERY_MAX_RESTARTS="0")

    record = wait_for_record(single_broker, "start_failed")
    assert reason in record.reason
    assert redis.hget(MAIL.task(task_id), "state") == b"pending"

    server.response["deployment"]["env_vars"] = {"MODE": mode}
    change_configuration(redis, server, "2")
    assert wait_for_state(single_broker, task_id, "completed").result == b"1"


def test_a_change_of_a_vault_needs_no_git(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    moving = Repository(tmp_path / "moving")
    moving.commit({**SDK_FILES, "main.py": Path(__file__).with_name("behaviours.py").read_bytes()})
    server.response["deployment"]["git_url"] = moving.url
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    before = wait_for_state(single_broker, add_task(single_broker, {"do": "env"}), "completed")
    shutil.rmtree(moving.folder)

    server.response["vaults"] = {"GREETING": "hello"}
    change_configuration(redis, server, "2")
    worker.wait_for("environment_changed")
    after = wait_for_state(single_broker, add_task(single_broker, {"do": "env"}), "completed")

    environments = [json.loads(record.result or b"") for record in (before, after)]
    assert [env.get("GREETING") for env in environments] == [None, "hello"]
    assert environments[0]["RUNQY_COMMIT"] == environments[1]["RUNQY_COMMIT"]
    assert wait_for_record(single_broker, "ready").reason == ""


def test_another_git_token_does_not_restart_children(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    before = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")

    server.response["git_token"] = "another-token"
    change_configuration(redis, server, "2")
    worker.wait_for("registered_again")
    server.response["limits"]["retry_delay_secs"] = 2
    change_configuration(redis, server, "3")
    worker.wait_for("registered_again", 2)  # and so the deployment for the second registration is over
    after = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")

    assert before.result == after.result


def test_a_worker_that_cannot_register_again_continues_and_reports_why(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_record(single_broker, "ready")

    server.status, server.code = 503, "vault_unavailable"
    change_configuration(redis, server, "2")
    worker.wait_for("not_registered")
    task = wait_for_state(single_broker, add_task(single_broker, 1), "completed")
    reason = eventually(lambda: wait_for_record(single_broker, "ready").reason)
    server.status = 200

    assert task.result == b"1"
    assert reason == "could not register again: The server responded 503: the server responds 503"
    eventually(lambda: not wait_for_record(single_broker, "ready").reason)

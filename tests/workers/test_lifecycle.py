"""A worker from its start to its end: registering, failing to start, changing, stopping."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.heartbeats import find_workers
from runqy.broker.keys import QueueKeys
from runqy.broker.worker_records import WorkerRecord
from tests.support.servers import ValkeyServer, free_port
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.processes import add_task, eventually, is_alive, wait_for_state

MAIL = QueueKeys("mail")


def wait_for_record(broker: Broker, state: str) -> WorkerRecord:
    def look() -> WorkerRecord | None:
        return next((record for record in find_workers(broker) if record.state == state), None)

    return eventually(look, what=lambda: find_workers(broker))


def change_configuration(redis: redis_py.Redis, server: FakeServer, token: str) -> None:
    server.answer["queue"]["revision"] = token
    redis.hset(keys.QUEUE_REVISIONS, "mail", token)
    redis.publish(keys.CHANGED_CHANNEL, "mail")


def wait_task(tmp_path: Path, name: str = "task") -> dict[str, str]:
    return {"do": "wait", "started": str(tmp_path / f"{name}.started"), "until": str(tmp_path / f"{name}.until")}


def test_a_ready_worker_is_listed_and_gone_after_its_end(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker
) -> None:
    worker = start_worker(RUNQY_CONCURRENCY="3", RUNQY_PROCESSES="2")

    record = wait_for_record(single_broker, "ready")
    status = worker.stop()

    assert (record.queue, record.redis_queues, record.concurrency, record.processes) == ("mail", {"mail": 1}, 3, 2)
    assert len(record.commit) == 40
    assert status == 0
    assert find_workers(single_broker) == []
    assert not redis.exists(keys.SERVERS, keys.WORKERS)


def test_the_request_to_register_says_who_asks(server: FakeServer, start_worker: StartWorker) -> None:
    start_worker()
    eventually(lambda: server.requests)

    request = server.requests[0]
    assert set(request) == {"worker_id", "queue", "hostname", "os", "version"}
    assert request["queue"] == "mail"


def test_each_one_shot_task_has_a_child_of_its_own(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["mode"] = "one_shot"
    server.answer["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker(RUNQY_CONCURRENCY="2")
    ids = [add_task(single_broker, {"do": "env"}) for _ in range(3)]
    pids = [add_task(single_broker, {"do": "pid"}) for _ in range(3)]

    environments = [json.loads(wait_for_state(single_broker, one, "completed").result or b"") for one in ids]
    results = {wait_for_state(single_broker, one, "completed").result for one in pids}

    assert [env["RUNQY_TASK_ID"] for env in environments] == ids
    assert len(results) == 3


def test_a_one_shot_child_that_dies_is_counted_and_others_go_on(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["mode"] = "one_shot"
    server.answer["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker()
    task_id = add_task(single_broker, {"do": "exit"})

    record = wait_for_state(single_broker, task_id, "retry", "archived")
    other = wait_for_state(single_broker, add_task(single_broker, 1), "completed", "archived")

    assert (record.state, record.child_deaths, record.retried) == ("retry", 1, 0)
    assert other.state == "completed"


def test_a_one_shot_run_whose_time_is_over_is_ended(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.answer["queue"]["mode"] = "one_shot"
    server.answer["deployment"]["env_vars"] = {"MODE": "one_shot"}
    start_worker()
    started = tmp_path / "started"
    task_id = add_task(single_broker, {"do": "hang", "started": str(started)}, timeout_s=1)

    record = wait_for_state(single_broker, task_id, "retry", "archived")

    assert (record.state, record.error) == ("retry", "timed out after 1 s")
    assert not is_alive(int(started.read_text()))


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
@pytest.mark.parametrize(("start", "reason"), [("crash", "cannot import what is needed"), ("fail", "no model here")])
def test_code_that_cannot_start_takes_no_task_and_says_why(  # noqa: PLR0917
    single_broker: Broker,
    redis: redis_py.Redis,
    server: FakeServer,
    start_worker: StartWorker,
    mode: str,
    start: str,
    reason: str,
) -> None:
    server.answer["queue"] |= {"mode": mode, "revision": "1"}
    server.answer["deployment"]["env_vars"] = {"START": start, "MODE": mode}
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")
    task_id = add_task(single_broker, 1)
    start_worker(RUNQY_RECOVERY_MAX_RESTARTS="0")

    record = wait_for_record(single_broker, "start_failed")
    assert reason in record.reason
    assert redis.hget(MAIL.task(task_id), "state") == b"pending"

    server.answer["deployment"]["env_vars"] = {"MODE": mode}
    change_configuration(redis, server, "2")
    assert wait_for_state(single_broker, task_id, "completed").result == b"1"


def test_a_deployment_that_fails_is_shown_and_tried_again_when_the_queue_changes(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["revision"] = "1"
    url = server.answer["deployment"]["git_url"]
    server.answer["deployment"]["git_url"] = "file:///nowhere/at/all"
    start_worker()

    record = wait_for_record(single_broker, "start_failed")
    server.answer["deployment"]["git_url"] = url
    change_configuration(redis, server, "2")

    assert "git ls-remote failed" in record.reason
    assert wait_for_record(single_broker, "ready").reason == ""


def test_a_change_of_the_queue_restarts_children_between_tasks(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.answer["queue"]["revision"] = "1"
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")
    worker = start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    server.answer["vaults"] = {"GREETING": "hello"}
    change_configuration(redis, server, "2")
    worker.wait_for("deployed", 2)
    Path(task["until"]).touch()

    assert wait_for_state(single_broker, running, "completed", "retry", "pending").state == "completed"
    env = json.loads(wait_for_state(single_broker, add_task(single_broker, {"do": "env"}), "completed").result or b"")
    assert env["GREETING"] == "hello"


def test_a_change_that_children_do_not_feel_leaves_them_alone(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["revision"] = "1"
    worker = start_worker()
    before = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
    server.answer["limits"]["retry_delay_secs"] = 500
    server.answer["limits"]["retry_max_delay_secs"] = 500

    change_configuration(redis, server, "2")
    worker.wait_for("registered_again")
    after = wait_for_state(single_broker, add_task(single_broker, {"do": "pid"}), "completed")
    failed = wait_for_state(single_broker, add_task(single_broker, {"do": "retry", "text": "x"}), "retry")

    assert before.result == after.result
    assert (failed.score_s or 0) > single_broker.now_s() + 300


def test_a_change_of_the_mode_changes_how_tasks_run(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    server.answer["queue"]["mode"] = "one_shot"
    server.answer["deployment"]["env_vars"] = {"MODE": "one_shot"}
    change_configuration(redis, server, "2")
    worker.wait_for("deployed", 2)
    env = json.loads(wait_for_state(single_broker, add_task(single_broker, {"do": "env"}), "completed").result or b"")

    assert env["RUNQY_TASK_ID"]


def test_a_disabled_queue_is_idle_until_it_is_enabled(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["revision"] = "1"
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


def test_a_stop_lets_a_task_end_that_is_short_enough(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    task = wait_task(tmp_path)
    running = add_task(single_broker, task)
    eventually(Path(task["started"]).exists)

    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for("draining")
    later = add_task(single_broker, 1)
    Path(task["until"]).touch()
    status = worker.process.wait(30)

    assert status == 0
    assert wait_for_state(single_broker, running, "completed", within_s=1).result == b'"waited"'
    assert wait_for_state(single_broker, later, "pending", within_s=1)


def test_a_stop_gives_a_longer_task_back_unspent_to_the_front(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="100ms", RUNQY_CONCURRENCY="2")
    started = tmp_path / "started"
    running = add_task(single_broker, {"do": "hang", "started": str(started)})
    held = add_task(single_broker, 1)
    eventually(started.exists)
    eventually(lambda: redis.llen(MAIL.active) == 2)
    waiting = add_task(single_broker, 2)

    status = worker.stop()

    assert status == 0
    assert redis.lrange(MAIL.pending, 0, -1) == [one.encode() for one in (waiting, held, running)]
    record = wait_for_state(single_broker, running, "pending", within_s=1)
    assert (record.retried, record.child_deaths) == (0, 0)
    assert not redis.exists(MAIL.active, MAIL.lease)
    assert not is_alive(int(started.read_text()))


def test_a_second_signal_does_not_wait(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker(RUNQY_SHUTDOWN_TIMEOUT="1h")
    started = tmp_path / "started"
    running = add_task(single_broker, {"do": "hang", "started": str(started)})
    eventually(started.exists)

    worker.process.send_signal(signal.SIGINT)
    worker.wait_for("draining")
    status = worker.stop(signal.SIGINT)

    assert status == 0
    assert wait_for_state(single_broker, running, "pending", within_s=1)


def test_children_end_with_a_worker_that_is_killed(
    single_broker: Broker, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    started = tmp_path / "started"
    add_task(single_broker, {"do": "hang", "started": str(started)})
    pid = int(eventually(lambda: started.exists() and started.read_text()))

    os.kill(worker.process.pid, signal.SIGKILL)

    eventually(lambda: not is_alive(pid))


def test_tasks_are_spread_over_processes(single_broker: Broker, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker(RUNQY_CONCURRENCY="2", RUNQY_PROCESSES="2")
    tasks = [wait_task(tmp_path, name) for name in ("one", "two")]
    ids = [add_task(single_broker, task) for task in tasks]

    pids = {eventually(lambda t=task: Path(t["started"]).exists() and Path(t["started"]).read_text()) for task in tasks}
    for task in tasks:
        Path(task["until"]).touch()

    assert len(pids) == 2
    assert {wait_for_state(single_broker, one, "completed").state for one in ids} == {"completed"}


def test_one_process_serves_two_queues(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = server.reply

    def reply(body: dict[str, str]) -> tuple[int, dict[str, object]]:
        status, answer = plain(body)
        answer["queue"]["name"] = body["queue"]
        return status, answer | {"sub_queues": [{"name": body["queue"], "priority": 1}]}

    monkeypatch.setattr(server, "reply", reply)
    start_worker(RUNQY_QUEUES="mail, post")

    ids = [add_task(single_broker, queue, queue=queue) for queue in ("mail", "post")]
    records = [wait_for_state(single_broker, one, "completed") for one in ids]

    assert [record.result for record in records] == [b'"mail"', b'"post"']
    assert records[0].worker_id != records[1].worker_id


def test_a_worker_waits_for_a_server_that_is_away(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.status = 503
    worker = start_worker()
    worker.wait_for("not_registered", 2)

    server.status = 200

    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")


def test_a_worker_that_waits_for_its_server_can_be_stopped(server: FakeServer, start_worker: StartWorker) -> None:
    server.status = 503
    worker = start_worker(RUNQY_BOOTSTRAP_RETRY_DELAY="1h")
    worker.wait_for("not_registered")

    assert worker.stop() == 0


def test_a_worker_serves_the_sub_queues_of_a_cluster(
    cluster_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    nodes = [f"{node.host}:{node.port}" for node in cluster_broker.client.get_primaries()]
    server.answer["redis"] |= {"addr": nodes[0], "mode": "cluster", "addresses": nodes}
    server.answer["sub_queues"] = [{"name": "mail_high", "priority": 5}, {"name": "mail_low", "priority": 1}]
    start_worker(RUNQY_CONCURRENCY="4")

    ids = [add_task(cluster_broker, n, queue=f"mail_{('high', 'low')[n % 2]}") for n in range(20)]
    results = [wait_for_state(cluster_broker, one, "completed").result for one in ids]

    assert results == [str(n).encode() for n in range(20)]
    assert wait_for_record(cluster_broker, "ready").redis_queues == {"mail_high": 5, "mail_low": 1}


def test_a_worker_gives_up_after_the_tries_it_was_allowed(server: FakeServer, start_worker: StartWorker) -> None:
    server.status = 503
    worker = start_worker(RUNQY_BOOTSTRAP_RETRIES="2")

    status = worker.process.wait(30)

    assert (status, len(server.requests)) == (1, 2)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "Check RUNQY_API_KEY"), (403, "may not register"), (404, "Check RUNQY_QUEUES")]
)
def test_a_refusal_ends_the_worker_with_a_clear_message(
    server: FakeServer, start_worker: StartWorker, status: int, hint: str
) -> None:
    server.status = status
    worker = start_worker()

    assert worker.process.wait(30) == 1
    assert hint in worker.events("worker_ends")[0]["reason"]


def test_a_key_that_is_revoked_while_the_worker_runs_ends_it(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["queue"]["revision"] = "1"
    worker = start_worker()
    wait_for_record(single_broker, "ready")
    redis.hset(keys.QUEUE_REVISIONS, "mail", "1")

    server.status = 401
    change_configuration(redis, server, "2")

    assert worker.process.wait(30) == 1
    assert find_workers(single_broker) == []


def test_a_worker_comes_back_after_redis_was_restarted(
    server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    own = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    server.answer["redis"]["addr"] = f"127.0.0.1:{own.port}"
    worker = start_worker()
    broker = _broker_on(own)
    task = wait_task(tmp_path)
    running = add_task(broker, task)
    eventually(Path(task["started"]).exists)

    own.kill()
    Path(task["until"]).touch()
    worker.wait_for("broker_unavailable")
    own.start()

    broker.close()
    assert wait_for_state(_broker_on(own), running, "completed")
    assert wait_for_state(_broker_on(own), add_task(_broker_on(own), 1), "completed")
    worker.stop()
    own.stop()


def test_an_address_of_redis_that_does_not_answer_is_asked_for_again(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    right = server.answer["redis"]["addr"]
    server.answer["redis"]["addr"] = f"127.0.0.1:{free_port()}"
    worker = start_worker()
    worker.wait_for("broker_unavailable")

    server.answer["redis"]["addr"] = right

    assert wait_for_state(single_broker, add_task(single_broker, 1), "completed")


def test_a_changed_password_of_redis_is_asked_for(server: FakeServer, start_worker: StartWorker) -> None:
    own = ValkeyServer("--requirepass", "first-password").start()
    server.answer["redis"] |= {"addr": f"127.0.0.1:{own.port}", "password": "first-password"}
    worker = start_worker()
    broker = _broker_on(own, "first-password")
    wait_for_state(broker, add_task(broker, 1), "completed")

    server.answer["redis"]["password"] = "second-password"
    broker.client.config_set("requirepass", "second-password")
    broker.client.client_kill_filter(skipme=True, _type="normal")
    worker.wait_for("registered_again")
    broker = _broker_on(own, "second-password")

    assert wait_for_state(broker, add_task(broker, 2), "completed")
    assert not re.search("(first|second)-password", worker.log.read_text())
    worker.stop()
    own.stop()


def test_a_changed_password_that_the_server_hears_of_later_is_asked_for_again(
    server: FakeServer, start_worker: StartWorker
) -> None:
    own = ValkeyServer("--requirepass", "first-password").start()
    server.answer["redis"] |= {"addr": f"127.0.0.1:{own.port}", "password": "first-password"}
    worker = start_worker()
    broker = _broker_on(own, "first-password")
    wait_for_state(broker, add_task(broker, 1), "completed")

    broker.client.config_set("requirepass", "second-password")
    broker.client.client_kill_filter(skipme=True, _type="normal")
    worker.wait_for("registered_again")
    server.answer["redis"]["password"] = "second-password"
    broker = _broker_on(own, "second-password")

    assert wait_for_state(broker, add_task(broker, 2), "completed")
    worker.stop()
    own.stop()


def test_secrets_are_in_no_log_and_no_record(
    single_broker: Broker, redis: redis_py.Redis, server: FakeServer, start_worker: StartWorker
) -> None:
    server.answer["vaults"] = {"TOKEN": "planted-in-vault"}
    server.answer["git_token"] = "planted-in-token"
    worker = start_worker()
    shown = add_task(single_broker, {"do": "log", "text": "my token is planted-in-vault"})
    failed = add_task(single_broker, {"do": "fail", "text": "refused planted-in-vault"})
    wait_for_state(single_broker, shown, "completed")
    record = wait_for_state(single_broker, failed, "archived")
    worker.wait_for("child_output")
    worker.stop()

    assert "my token is ****" in worker.log.read_text()
    assert "planted" not in worker.log.read_text()
    assert record.error.rstrip().endswith("refused ****")


def _broker_on(server: ValkeyServer, password: str = "") -> Broker:
    return Broker.connect(RedisTarget(addresses=(("127.0.0.1", server.port),), password=password))

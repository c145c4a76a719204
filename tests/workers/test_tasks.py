"""Tasks of a worker: results, failures, retries."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.broker.memory import store_over_share
from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.broker.tasks.enqueue import enqueue
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment
from tests.support.tasks import QUEUE, new_task
from tests.support.waiting import eventually
from tests.workers.fake_server import FakeServer, registration_response
from tests.workers.outputs import wait_for_text
from tests.workers.processes import WorkerProcess, add_task, wait_for_state
from tests.workers.repositories import Repository

FINAL = ("completed", "archived")
MAX_RESULT_BYTES = 12 << 20
CLOCKS_S = 10
"""How far two processes may be apart about the time of Redis, whose replies a busy machine delays."""


@pytest.fixture(scope="module")
def shared_worker(
    redis_server: None, task_repository: Repository, deployments: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """Return a long_running worker, on a Redis that is empty at its start."""
    environment.SERVER.client().flushall()
    limits = {"retry_delay_secs": 1, "retry_max_delay_secs": 2, "max_result_bytes": MAX_RESULT_BYTES}
    server = FakeServer(
        registration_response(redis_port=environment.SERVER.port, git_url=task_repository.url, limits=limits)
    )
    folder = tmp_path_factory.mktemp("worker")
    worker = WorkerProcess(server, folder, RUNQY_DEPLOYMENT_DIR=str(deployments))
    yield worker
    worker.end()
    server.close()


@pytest.fixture
def live_broker(shared_worker: WorkerProcess) -> Iterator[Broker]:
    """Return a broker on the worker's Redis without flushing it, which would remove the worker's wake-ups."""
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),)))
    yield broker
    broker.close()


def test_a_task_completes_with_its_result(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"a": [1, "é"]})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert (record.state, json.loads(record.result or b"")) == ("completed", {"a": [1, "é"]})


def test_the_bytes_of_a_payload_reach_the_task(live_broker: Broker) -> None:
    task_id = add_task(live_broker, b'{"n": 9007199254740993,\n "z": 1,\r\n "a": 2}')

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.result == b'{"n": 9007199254740993, "z": 1, "a": 2}'


def test_a_task_that_was_not_done_is_logged_with_the_request_that_made_it(
    live_broker: Broker, shared_worker: WorkerProcess
) -> None:
    headers = {"x-request-id": "r-17", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    done = add_task(live_broker, {"a": 1}, headers=headers)
    failed = add_task(live_broker, {"do": "fail", "text": "no such customer"}, headers=headers)

    states = [wait_for_state(live_broker, task_id, *FINAL).state for task_id in (done, failed)]

    assert states == ["completed", "archived"]
    logged = eventually(lambda: [e for e in shared_worker.events("task_failed") if e["task_id"] == failed])
    (entry,) = logged
    assert (entry["request_id"], entry["level"], entry["outcome"]) == ("r-17", "warning", "archived")
    assert entry["error"] == "ValueError: no such customer"
    assert entry["exception"].startswith("Traceback (most recent call last):")
    assert entry["exception"].endswith("\nValueError: no such customer")


def test_the_end_of_a_long_error_is_logged(live_broker: Broker, shared_worker: WorkerProcess) -> None:
    failed = add_task(live_broker, {"do": "fail", "text": f"{'x' * 5000} the end"})
    wait_for_state(live_broker, failed, *FINAL)

    (entry,) = eventually(lambda: [e for e in shared_worker.events("task_failed") if e["task_id"] == failed])

    assert entry["error"].startswith("ValueError: xxx")
    assert entry["exception"].endswith("x the end")


def test_an_error_archives_the_task_with_its_text(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "fail", "text": "no such customer"})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.state == "archived"
    assert record.error.rstrip().endswith("ValueError: no such customer")


def test_an_error_that_requests_a_retry_is_retried(live_broker: Broker) -> None:
    before_s = live_broker.now_s()
    task_id = add_task(live_broker, {"do": "retry", "text": "busy"})

    record = wait_for_state(live_broker, task_id, "retry")

    assert (record.error, record.retried) == ("busy", 1)
    assert before_s - CLOCKS_S <= (record.score_s or 0) <= live_broker.now_s() + 2 + CLOCKS_S


def test_a_task_without_retries_left_is_archived(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "retry", "text": "busy"}, max_retry=0)

    record = wait_for_state(live_broker, task_id, "retry", *FINAL)

    assert (record.state, record.error, record.retried) == ("archived", "busy", 0)


def test_a_child_that_dies_costs_no_retry_and_is_replaced(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "exit"})
    record = wait_for_state(live_broker, task_id, "retry")
    after = wait_for_state(live_broker, add_task(live_broker, "next"), *FINAL)

    assert (record.retried, record.child_deaths) == (0, 1)
    assert record.error.startswith("the child process exited with status 3")
    assert record.error_class == ErrorClass.PROCESS_EXITED
    assert after.state == "completed"


def test_garbage_on_stdout_is_only_logged(live_broker: Broker, shared_worker: WorkerProcess) -> None:
    task_id = add_task(live_broker, {"do": "garbage"})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.result == b'"clean"'
    shared_worker.wait_for("child_output")
    assert "printed" in [entry["line"] for entry in shared_worker.events("child_output")]


def test_a_result_of_ten_megabytes_arrives(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "big", "bytes": 10 << 20})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.result == b'"' + b"x" * (10 << 20) + b'"'


def test_a_line_above_the_limit_fails_only_its_task(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "big", "bytes": 33 << 20})
    record = wait_for_state(live_broker, task_id, *FINAL)
    after = wait_for_state(live_broker, add_task(live_broker, "next"), *FINAL)

    assert record.error.startswith("result_too_large: the response was longer than 32 MiB, the limit of ")
    assert record.error_class == ErrorClass.RESULT_TOO_LARGE
    assert after.state == "completed"


def test_a_result_above_the_limit_of_the_queue_fails_only_its_task(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "big", "bytes": MAX_RESULT_BYTES})
    record = wait_for_state(live_broker, task_id, *FINAL)
    after = wait_for_state(live_broker, add_task(live_broker, "next"), *FINAL)

    assert (record.state, record.result) == ("archived", None)
    assert record.error == (
        "result_too_large: the result has 12,582,914 bytes; the queue allows 12,582,912 (max_result_bytes)"
    )
    assert record.error_class == ErrorClass.RESULT_TOO_LARGE
    assert after.state == "completed"


def test_a_queue_above_its_share_of_memory_stores_no_large_result(live_broker: Broker) -> None:
    live_broker.run(store_over_share({QUEUE: 3 << 20}))
    ids = [add_task(live_broker, {"do": "big", "bytes": size}) for size in (4 << 20, 2 << 20)]
    large, small = [wait_for_state(live_broker, task_id, *FINAL) for task_id in ids]
    live_broker.run(store_over_share({}, no_longer=[QUEUE]))
    after = wait_for_state(live_broker, add_task(live_broker, {"do": "big", "bytes": 4 << 20}), *FINAL)

    assert (large.state, large.result, large.error.partition(":")[0]) == ("archived", None, "queue_memory")
    assert large.error_class == ErrorClass.RESULT_TOO_LARGE
    assert [small.state, after.state] == ["completed", "completed"]


def test_a_line_of_output_above_the_limit_is_no_result(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "overflow", "bytes": 40 << 20}, retention_s=3600)

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert (record.state, record.error) == ("completed", "")
    wait_for_text(live_broker, task_id, b"[line too long to keep]\n")


def test_a_result_that_is_not_json_is_archived(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "nan"})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert (record.state, record.error) == (
        "archived",
        "result_invalid: result: NaN is not JSON; return null or a text instead",
    )
    assert record.error_class == ErrorClass.RESULT_INVALID


def test_a_task_with_a_truncated_response_is_archived(live_broker: Broker) -> None:
    task_id = "broken-response"
    payload = {"do": "broken", "line": f'{{"task_id": "{task_id}", "result": <Model>}}'}
    live_broker.run(enqueue(new_task(task_id, payload=json.dumps(payload).encode()), now_ns=live_broker.now_ns()))

    record = wait_for_state(live_broker, task_id, *FINAL)
    after = wait_for_state(live_broker, add_task(live_broker, "next"), *FINAL)

    assert record.state == "archived"
    assert record.error.startswith("result_invalid: the response is not valid JSON: ")
    assert after.result == b'"next"'


def test_an_invalid_line_about_another_task_is_logged(live_broker: Broker, shared_worker: WorkerProcess) -> None:
    line = '{"task_id":"another", "step": <1>}'
    task_id = add_task(live_broker, {"do": "broken", "line": line})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.result == b'"clean"'
    shared_worker.wait_for("child_output")
    assert line in [entry["line"] for entry in shared_worker.events("child_output")]


def test_a_payload_that_is_not_json_is_archived(live_broker: Broker) -> None:
    task_id = add_task(live_broker, b"\x00\x01 not json")

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.state == "archived"
    assert record.error.startswith("payload_unusable: the payload is not JSON")
    assert record.error_class == ErrorClass.PAYLOAD_UNUSABLE


def test_the_record_has_the_worker_and_the_times_of_a_task(live_broker: Broker) -> None:
    before_ns = live_broker.now_ns()
    record = wait_for_state(live_broker, add_task(live_broker, 1), "completed")

    assert record.worker_id
    after_ns = live_broker.now_ns()
    assert before_ns - CLOCKS_S * 10**9 <= (record.started_at_ns or 0) <= after_ns + CLOCKS_S * 10**9


def test_the_environment_is_clean(live_broker: Broker, deployments: Path, shared_worker: WorkerProcess) -> None:
    record = wait_for_state(live_broker, add_task(live_broker, {"do": "env"}), "completed")

    env = json.loads(record.result or b"")
    deployed = shared_worker.wait_for("deployed")
    assert env.pop("RUNQY_COMMIT") == deployed["commit"]
    assert env.pop("RUNQY_QUEUE") == "mail"
    assert env.pop("RUNQY_WORKER_ID") == record.worker_id
    assert env["PATH"].startswith(f"{env['VIRTUAL_ENV']}/bin:")
    assert env["VIRTUAL_ENV"].startswith(str(deployments))
    assert env.pop("RUNQY_CHILD_PROTOCOL") == "2"
    assert not [name for name in env if name.startswith(("RUNQY_", "REDIS"))]
    assert set(env) <= {"PATH", "HOME", "VIRTUAL_ENV", "LC_CTYPE", "LANG", "LC_ALL", "TZ", "TMPDIR"}


def test_the_task_runs_in_the_checkout(live_broker: Broker, shared_worker: WorkerProcess) -> None:
    record = wait_for_state(live_broker, add_task(live_broker, {"do": "cwd"}), "completed")

    assert json.loads(record.result or b"") == shared_worker.wait_for("deployed")["folder"]

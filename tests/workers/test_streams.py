"""What tasks of a real worker stream, as it is kept in Redis."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import MAX_CHUNKS, read_chunks
from runqy.broker.tasks.reader import find_task
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment
from tests.support.waiting import eventually
from tests.workers.fake_server import FakeServer, registration_response
from tests.workers.outputs import chunks_of, output_of
from tests.workers.processes import WorkerProcess, add_task, wait_for_state
from tests.workers.repositories import Repository

FINAL = ("completed", "archived")
SECRET = "s3cret-of-the-vault"


@pytest.fixture(scope="module")
def shared_server(redis_server: None, streaming_repository: Repository) -> Iterator[FakeServer]:
    """Return a server whose queue has a vault, and which gives each worker a Redis user with few permissions."""
    environment.SERVER.client().flushall()
    response = registration_response(
        redis_port=environment.SERVER.port, git_url=streaming_repository.url, vaults={"TOKEN": SECRET}
    )
    server = FakeServer(response)
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared_worker(
    shared_server: FakeServer, deployments: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(shared_server, tmp_path_factory.mktemp("worker"), RUNQY_DEPLOYMENT_DIR=str(deployments))
    yield worker
    worker.end()


@pytest.fixture
def live_broker(shared_worker: WorkerProcess) -> Iterator[Broker]:
    """Return a broker on the worker's Redis without flushing it."""
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),)))
    yield broker
    broker.close()


def stream(broker: Broker, **payload: Any) -> str:
    return add_task(broker, payload, retention_s=3600, max_retry=3)


@pytest.mark.parametrize(
    ("chunks", "result"),
    [
        (["a", "é\n", '"b"'], 'aé\n"b"'),
        (["a", {"n": 1}, None], ["a", {"n": 1}, None]),
        ([], None),
    ],
)
def test_a_stream_without_a_result_is_the_result(live_broker: Broker, chunks: list[Any], result: Any) -> None:
    task_id = stream(live_broker, chunks=chunks)

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert json.loads(record.result or b"") == result
    assert chunks_of(live_broker, task_id) == chunks


def test_a_result_is_kept_beside_the_stream(live_broker: Broker) -> None:
    task_id = stream(live_broker, chunks=["a", "b"], result={"tokens": 2})

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert json.loads(record.result or b"") == {"tokens": 2}
    assert chunks_of(live_broker, task_id) == ["a", "b"]


def test_the_last_chunk_is_stored_before_the_end(live_broker: Broker) -> None:
    ids = [stream(live_broker, chunks=list(range(n, n + 50))) for n in range(50)]

    for number, task_id in enumerate(ids):
        wait_for_state(live_broker, task_id, *FINAL)
        assert chunks_of(live_broker, task_id) == list(range(number, number + 50))


def test_chunks_are_readable_while_the_task_runs(live_broker: Broker, tmp_path: Path) -> None:
    task_id = stream(live_broker, count=str(tmp_path / "until"), pause_s=0.01)

    begun = eventually(lambda: len(chunks := chunks_of(live_broker, task_id)) > 5 and chunks)
    state = live_broker.run(find_task(live_broker, task_id)).state
    (tmp_path / "until").touch()
    wait_for_state(live_broker, task_id, *FINAL)
    whole = chunks_of(live_broker, task_id)

    assert state == "active"
    assert whole == list(range(len(whole)))
    assert whole[: len(begun)] == begun


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (
            {"chunks": ["a", "x" * 70_000]},
            "stream_too_large: chunk 2 has 70,002 bytes; a chunk may have 65,536",
        ),
        (
            {"long": 40_000_000},
            "stream_too_large: chunk 1 has too many bytes; a chunk may have 65,536",
        ),
        (
            {"count": "/nowhere"},
            "stream_too_large: the task streamed more than 10,000 chunks, the limit of a run",
        ),
        (
            {"flood": True},
            "stream_too_large: the task streamed more than 4,194,304 bytes, the limit of a run",
        ),
    ],
)
def test_a_stream_above_a_limit_fails_its_task(
    live_broker: Broker, shared_worker: WorkerProcess, payload: dict[str, Any], error: str
) -> None:
    task_id = stream(live_broker, **payload)

    record = wait_for_state(live_broker, task_id, *FINAL, "retry")
    after = wait_for_state(live_broker, stream(live_broker, chunks=["fine"]), *FINAL)

    assert (record.state, record.message.error_msg) == ("archived", error)
    assert len(chunks_of(live_broker, task_id)) <= MAX_CHUNKS
    assert json.loads(after.result or b"") == "fine"
    assert shared_worker.events("child_ended") == []  # the child took the cancel line


def test_a_chunk_that_is_no_json_fails_its_task(live_broker: Broker) -> None:
    task_id = stream(live_broker, lines=['{"task_id":"$ID","chunk":"a"}', '{"task_id":"$ID","chunk":NaN}'])

    record = wait_for_state(live_broker, task_id, *FINAL)

    assert record.message.error_msg == "result_invalid: chunk: NaN is not JSON; return null or a text instead"
    assert chunks_of(live_broker, task_id) == ["a"]


def test_a_log_line_is_output_of_its_task_without_secrets(live_broker: Broker) -> None:
    task_id = stream(live_broker, log=["one\ntwo", f"the token {SECRET}"], lines=["printed"])

    wait_for_state(live_broker, task_id, *FINAL)

    output = output_of(live_broker, task_id)
    assert (output.text, output.is_shared) == (b"printed\none\ntwo\nthe token ****\n", False)


def test_a_child_that_is_killed_begins_another_stream(live_broker: Broker, tmp_path: Path) -> None:
    task_id = stream(live_broker, lines=["$PID"], count=str(tmp_path / "until"), pause_s=0.01)
    before = eventually(lambda: len(chunks := chunks_of(live_broker, task_id)) > 5 and chunks)
    pid = eventually(lambda: output_of(live_broker, task_id).text)

    os.kill(int(pid), signal.SIGKILL)
    wait_for_state(live_broker, task_id, "retry")
    kept = chunks_of(live_broker, task_id)
    live_broker.run(forward("mail", TaskState.RETRY, now_ns=live_broker.now_ns() + 10**10))
    eventually(lambda: live_broker.run(read_chunks("mail", task_id)).run == 2)
    (tmp_path / "until").touch()
    wait_for_state(live_broker, task_id, *FINAL)

    assert kept[: len(before)] == before
    assert kept == list(range(len(kept)))
    assert chunks_of(live_broker, task_id) == list(range(len(chunks_of(live_broker, task_id))))

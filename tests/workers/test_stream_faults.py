"""Streams of real workers when a worker or Redis is killed, Redis is full, or nothing is to be stored."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import GAP, TaskChunks, read_chunks
from tests.support.full_redis import full_redis
from tests.support.links import wait_for_redis
from tests.support.servers import ValkeyServer
from tests.support.waiting import eventually
from tests.workers.conftest import StartWorker
from tests.workers.fake_server import FakeServer
from tests.workers.outputs import chunks_of
from tests.workers.processes import add_task, broker_on, wait_for_state
from tests.workers.repositories import Repository

pytestmark = pytest.mark.fault


@pytest.fixture
def task_repository(streaming_repository: Repository) -> Repository:
    """Return the repository that the server of these tests offers."""
    return streaming_repository


@pytest.fixture
def durable_redis() -> Iterator[ValkeyServer]:
    """Return a Redis that stores each write at once."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.stop()


def count_until(broker: Broker, file: Path) -> str:
    """Enqueue a task that streams the numbers from 0 until a file exists."""
    return add_task(broker, {"count": str(file), "pause_s": 0.01}, retention_s=3600)


def test_the_run_after_a_killed_worker_replaces_its_stream(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["lease_secs"] = 2
    task_id = count_until(single_broker, tmp_path / "until")
    worker = start_worker()
    before = eventually(lambda: len(chunks := chunks_of(single_broker, task_id)) > 5 and chunks)

    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    eventually(lambda: single_broker.run(recover_lost(single_broker, ["mail"], watch=LeaselessWatch(), grace_s=0)))
    kept = chunks_of(single_broker, task_id)
    single_broker.run(forward("mail", TaskState.RETRY, now_ns=single_broker.now_ns() + 10**12))
    start_worker()
    eventually(lambda: single_broker.run(read_chunks("mail", task_id)).run == 2)
    (tmp_path / "until").touch()
    wait_for_state(single_broker, task_id, "completed")
    after = chunks_of(single_broker, task_id)

    assert kept[: len(before)] == before
    assert (kept, after) == (list(range(len(kept))), list(range(len(after))))


def test_a_stream_continues_without_a_gap_after_redis_was_killed(
    durable_redis: ValkeyServer, server: FakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.response["redis"]["addr"] = f"127.0.0.1:{durable_redis.port}"
    broker = broker_on(durable_redis)
    task_id = count_until(broker, tmp_path / "until")
    start_worker()

    for round_number in range(1, 4):
        before = eventually(lambda n=round_number: len(chunks := chunks_of(broker, task_id)) > 5 * n and chunks)
        durable_redis.kill()
        durable_redis.start()
        wait_for_redis(broker)
        assert chunks_of(broker, task_id)[: len(before)] == before
        eventually(lambda: len(chunks_of(broker, task_id)) > len(before))  # noqa: B023 (called at once)
    (tmp_path / "until").touch()
    wait_for_state(broker, task_id, "completed")
    chunks, read = chunks_of(broker, task_id), broker.run(read_chunks("mail", task_id))
    broker.close()

    assert chunks == list(range(len(chunks)))
    assert read.run == 1


def test_a_task_that_streams_into_a_full_redis_completes_and_shows_the_gap(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    task_id = count_until(single_broker, tmp_path / "until")
    worker = start_worker()
    eventually(lambda: len(chunks_of(single_broker, task_id)) > 5)

    with full_redis(redis):
        stored = len(chunks_of(single_broker, task_id))
        eventually(lambda: "OOM" in str(redis.info("errorstats")))
        (tmp_path / "until").touch()
        record = wait_for_state(single_broker, task_id, "completed")
    chunks = single_broker.run(read_chunks("mail", task_id)).entries

    whole = [b"%d" % number for number in range(len(chunks))]
    assert record.result == b"[%b]" % b",".join(whole)
    assert list(chunks[:stored]) == whole[:stored]
    assert chunks[-1] == GAP
    assert worker.wait_for("chunks_dropped")["task_id"] == task_id


def test_a_stream_is_whole_if_redis_was_full_for_a_while(
    single_broker: Broker, redis: redis_py.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    task_id = count_until(single_broker, tmp_path / "until")
    start_worker()
    eventually(lambda: len(chunks_of(single_broker, task_id)) > 5)

    with full_redis(redis):
        eventually(lambda: "OOM" in str(redis.info("errorstats")))
        stored = len(chunks_of(single_broker, task_id))
    eventually(lambda: len(chunks_of(single_broker, task_id)) > stored)
    (tmp_path / "until").touch()
    wait_for_state(single_broker, task_id, "completed")

    chunks = chunks_of(single_broker, task_id)
    assert chunks == list(range(len(chunks)))


def test_a_queue_without_storage_of_results_stores_no_chunks(
    single_broker: Broker, server: FakeServer, start_worker: StartWorker
) -> None:
    server.response["deployment"]["redis_storage"] = False
    task_id = add_task(single_broker, {"chunks": ["a", "b"]}, retention_s=3600)
    start_worker()

    record = wait_for_state(single_broker, task_id, "completed")

    assert record.result is None
    assert single_broker.run(read_chunks("mail", task_id)) == TaskChunks(run=1)

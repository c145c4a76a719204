"""What tasks of a real worker print, and the progress that they report, as it is kept in Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.keys import QueueKeys
from runqy.broker.states import TaskState
from runqy.broker.tasks.output import MAX_BYTES
from runqy.broker.tasks.reader import find_task
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment
from tests.support.redis_client import redis_of
from tests.support.waiting import eventually
from tests.workers.fake_server import FakeServer, registration_response
from tests.workers.outputs import output_of, shout, wait_for_progress, wait_for_text
from tests.workers.processes import WorkerProcess, add_task, wait_for_state, wait_task
from tests.workers.repositories import Repository

FINAL = ("completed", "archived")
SECRET = "s3cret-of-the-vault"


@pytest.fixture(scope="module")
def shared_server(redis_server: None, task_repository: Repository) -> Iterator[FakeServer]:
    """Return a server whose queue has a vault, and which gives each worker a Redis user with few permissions."""
    environment.SERVER.client().flushall()
    response = registration_response(
        redis_port=environment.SERVER.port, git_url=task_repository.url, vaults={"TOKEN": SECRET}
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


def test_each_task_has_what_it_printed(live_broker: Broker) -> None:
    ids = [shout(live_broker, f"line of {n}", f"another of {n}") for n in range(20)]

    for task_id in ids:
        wait_for_state(live_broker, task_id, *FINAL)

    for number, task_id in enumerate(ids):
        wait_for_text(live_broker, task_id, b"line of %d\nanother of %d\n" % (number, number))
    found = [output_of(live_broker, task_id) for task_id in ids]
    assert not any(output.is_shared for output in found)


def test_a_task_that_prints_nothing_has_no_output(live_broker: Broker) -> None:
    task_id = add_task(live_broker, 1, retention_s=3600)

    wait_for_state(live_broker, task_id, *FINAL)

    assert not redis_of(live_broker).exists(QueueKeys("mail").output(task_id))


def test_stdout_outside_the_protocol_is_output(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "broken", "line": "[1, 2]"}, retention_s=3600)

    wait_for_state(live_broker, task_id, *FINAL)

    wait_for_text(live_broker, task_id, b"[1, 2]\n")


def test_output_and_progress_arrive_while_the_task_runs(live_broker: Broker, tmp_path: Path) -> None:
    progress = [{"current": 1, "total": 4}, {"current": 3, "total": 4, "message": f"with {SECRET}"}]
    task_id = shout(live_broker, f"password {SECRET}", progress=progress, **wait_task(tmp_path))

    wait_for_text(live_broker, task_id, b"password ****\n")
    eventually(lambda: (found := live_broker.run(find_task(live_broker, task_id)).progress) and found.current == 3)
    running = live_broker.run(find_task(live_broker, task_id))
    (tmp_path / "task.until").touch()
    ended = wait_for_state(live_broker, task_id, *FINAL)

    assert running.state == "active"
    assert running.progress is not None
    assert (running.progress.current, running.progress.total, running.progress.message) == (3, 4, "with ****")
    assert ended.progress == running.progress
    assert output_of(live_broker, task_id).text == b"password ****\n"


def test_progress_that_is_reported_just_before_the_end_is_kept(live_broker: Broker) -> None:
    task_id = shout(live_broker, progress=[{"current": n, "total": 1000} for n in range(1001)])

    wait_for_state(live_broker, task_id, *FINAL)

    wait_for_progress(live_broker, task_id, 1000)


def test_each_attempt_has_its_own_output(live_broker: Broker) -> None:
    task_id = shout(live_broker, "printed", retries=True, max_retry=1)
    wait_for_state(live_broker, task_id, "retry")
    wait_for_text(live_broker, task_id, b"printed\n")
    later_ns = live_broker.now_ns() + 10**10
    live_broker.run(forward("mail", TaskState.RETRY, now_ns=later_ns))

    wait_for_state(live_broker, task_id, "archived")

    eventually(lambda: output_of(live_broker, task_id, 2).text == b"printed\n")
    assert output_of(live_broker, task_id, 1).text == b"printed\n"
    assert output_of(live_broker, task_id).attempts == (1, 2)


def test_a_flood_is_cut_and_marked_and_its_end_kept(live_broker: Broker) -> None:
    task_id = add_task(live_broker, {"do": "flood", "bytes": 20_000_000}, retention_s=3600)
    quick = add_task(live_broker, 1, retention_s=3600)

    wait_for_state(live_broker, task_id, *FINAL, within_s=60)
    wait_for_state(live_broker, quick, *FINAL)

    end = b"%099d\nthe end\n" % 19_999_900
    eventually(lambda: output_of(live_broker, task_id).text.endswith(end))
    found = output_of(live_broker, task_id)
    assert found.text.startswith(b"[") or found.offset > 0
    assert len(found.text) <= MAX_BYTES
    assert redis_of(live_broker).memory_usage(QueueKeys("mail").output(task_id)) < 2 * MAX_BYTES


def test_a_killed_child_leaves_what_it_printed(live_broker: Broker) -> None:
    task_id = shout(live_broker, "last words", dies=True)

    wait_for_state(live_broker, task_id, "retry")

    wait_for_text(live_broker, task_id, b"last words\n")

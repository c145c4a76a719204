"""Workers that serve all queues which their key may register for, with a real server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queues.definitions import Deployment
from queues.deletion import delete_queue
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.workers.heartbeats import list_worker_records
from tests.queues.samples import spec
from tests.support.waiting import eventually
from tests.support.web import WebProcess
from tests.workers.processes import WorkerProcess, add_task, wait_for_state
from tests.workers.repositories import Repository

Follow = Callable[..., WorkerProcess]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Return a running server, which reads the tests' changes from Redis."""
    started = WebProcess(tmp_path_factory.mktemp("web"))
    yield started
    started.kill()


@pytest.fixture
def save(task_repository: Repository) -> Callable[..., None]:
    """Return a function that saves a queue with the tests' code."""
    deployment = Deployment(git_url=task_repository.url, startup_cmd="python main.py")

    def save_one(name: str, *, is_enabled: bool = True) -> None:
        save_queue(spec=spec(name, deployment=deployment, is_enabled=is_enabled), source=QueueSource.API)

    return save_one


@pytest.fixture
def follow(web: WebProcess, deployments: Path, tmp_path: Path) -> Iterator[Follow]:
    """Return a function that starts a worker for all queues."""
    workers: list[WorkerProcess] = []

    def start(**settings: str) -> WorkerProcess:
        settings = {"RUNQY_QUEUES": "*", "RUNQY_DEPLOYMENT_DIR": str(deployments)} | settings
        workers.append(WorkerProcess(web, tmp_path, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def served(broker: Broker) -> list[str]:
    """Return the queues that workers serve."""
    return sorted(record.queue for record in list_worker_records(broker))


def test_queues_are_served_that_appear_later_or_again_until_they_are_deleted(
    single_broker: Broker, save: Callable[..., None], follow: Follow
) -> None:
    save("mail")
    save("off", is_enabled=False)
    worker = follow()
    wait_for_state(single_broker, add_task(single_broker, 1), "completed")

    save("post")
    save("off")
    for queue in ("post", "off"):
        wait_for_state(single_broker, add_task(single_broker, 1, queue=queue), "completed")
    delete_queue(single_broker, name="post", force=True)
    # The server may still have queues of an earlier test.
    eventually(lambda: "post" not in served(single_broker), what=lambda: served(single_broker))
    save("post")

    wait_for_state(single_broker, add_task(single_broker, 2, queue="post"), "completed")
    assert worker.events("worker_exits") == []
    assert worker.stop() == 0
    # A queue of an earlier test, for which the worker was refused, stays listed until its record expires.
    assert not {"mail", "off", "post"} & {*served(single_broker)}


def test_a_limited_key_follows_its_own_queues(single_broker: Broker, save: Callable[..., None], follow: Follow) -> None:
    save("mail"), save("post")
    key = create_api_key(name="w", role="worker", queues=["post", "news"], allow_shared_redis=True).plain
    worker = follow(RUNQY_API_KEY=key)
    wait_for_state(single_broker, add_task(single_broker, 1, queue="post"), "completed")

    save("news")

    wait_for_state(single_broker, add_task(single_broker, 1, queue="news"), "completed")
    assert served(single_broker) == ["news", "post"]
    assert worker.events("not_registered") == []


def test_a_key_that_is_refused_ends_the_worker(follow: Follow) -> None:
    worker = follow(RUNQY_API_KEY="wrong")

    assert worker.process.wait(60) == 1
    assert "Check RUNQY_API_KEY" in worker.events("worker_exits")[0]["reason"]

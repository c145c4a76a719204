"""Fixtures of the worker's tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from tests.support import environment
from tests.workers.fake_server import FakeServer, registration_response
from tests.workers.processes import SDK_FILES, WorkerProcess
from tests.workers.repositories import Repository

# CI takes a skipped test for a failure, and does not build Go's worker.
collect_ignore = [] if "RUNQY_TEST_GO_WORKER" in os.environ else ["test_go_worker.py"]

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return an empty git repository."""
    return Repository(tmp_path / "repository")


@pytest.fixture(scope="session")
def task_repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return the repository with the tests' task code and the published SDK; it is never changed."""
    repository = Repository(tmp_path_factory.mktemp("tasks") / "repository")
    repository.commit({**SDK_FILES, "main.py": Path(__file__).with_name("behaviours.py").read_bytes()})
    return repository


@pytest.fixture(scope="session")
def streaming_repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository whose child streams what each task asks for."""
    repository = Repository(tmp_path_factory.mktemp("streaming") / "repository")
    repository.commit({"main.py": Path(__file__).with_name("streaming_child.py").read_bytes()})
    return repository


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the tests' workers deploy; shared, so that one virtual environment serves all."""
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture
def server(task_repository: Repository) -> Iterator[FakeServer]:
    """Return a server that offers the queue `mail` with the tests' task code."""
    server = FakeServer(registration_response(redis_port=environment.SERVER.port, git_url=task_repository.url))
    yield server
    server.close()


@pytest.fixture
def start_worker(server: FakeServer, deployments: Path, tmp_path: Path, redis: redis_py.Redis) -> Iterator[StartWorker]:
    """Return a function that starts a worker, on a Redis that is empty."""
    workers: list[WorkerProcess] = []

    def start(**settings: Any) -> WorkerProcess:
        workers.append(WorkerProcess(server, tmp_path, **{"RUNQY_DEPLOYMENT_DIR": str(deployments)} | settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()

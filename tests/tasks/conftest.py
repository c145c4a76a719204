"""Queues and clients for the tests of the tasks API."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queues.definitions import FieldType, LimitOverrides, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.tasks.lease import LeasedTask
from runqy.configuration.snapshot import get_snapshot
from tasks import waiting
from tasks.waiting import ResultWaiters, WaiterLimits
from tasks.waiting_loop import get_waiting_loop
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.queues.stored import store_queues
from tests.support.environment import CLIENT_KEY
from tests.support.tasks import put, take_one
from tests.support.waiting import wait_until
from tests.support.web import ASGI, WebProcess
from tests.tasks.task_helpers import LONG_S


@pytest.fixture
def queues(configuration: None) -> None:
    """Define queues of several kinds."""
    fields = (
        PayloadField(name="prompt", type=(FieldType.STRING,), required=True),
        PayloadField(name="width", type=(FieldType.INT,), default_json="512"),
        PayloadField(name="style", type=(FieldType.STRING,), default_json='"plain"'),
    )
    limits = LimitOverrides(max_retry=7, active_timeout_s=90, ttl_completed_s=60, ttl_archived_s=120)
    store_queues(
        spec("simple"),
        spec("inference", "high:10", "low:3"),
        spec("image", input=fields),
        spec("optional", input=fields[1:]),
        spec("limited", limits=limits),
        spec("off", is_enabled=False),
    )
    get_snapshot()  # for operations that are run by themselves


@pytest.fixture
def client(queues: None, each_plane: str) -> ApiClient:
    """Return a client with the role client. Each test runs against DRF's viewsets, and against the data plane."""
    return ApiClient(CLIENT_KEY)


@pytest.fixture
def waiters(client: ApiClient, each_plane: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResultWaiters]:
    """Return the process's waiters. No task is polled within a test."""
    monkeypatch.setattr(waiting, "POLL_S", LONG_S)
    found = get_waiting_loop().waiters
    monkeypatch.setattr(found, "limits", WaiterLimits(total=6, threads=3))
    monkeypatch.setattr(found, "is_draining", False)
    yield found
    monkeypatch.undo()
    wait_until(lambda: not found.active)


@pytest.fixture
def taken(queues: None, single_broker: Broker) -> LeasedTask:
    """Return a task of the queue `simple` that runs."""
    put(single_broker, "t1", queue="simple", retention_s=3600)
    return take_one(single_broker, "simple")


@pytest.fixture
def start_web(configuration: None, tmp_path: Path) -> Iterator[Callable[..., WebProcess]]:
    """Return a function that starts a server with a queue."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    started: list[WebProcess] = []

    def start(gunicorn: tuple[str, ...] = ASGI, **changes: str) -> WebProcess:
        started.append(WebProcess(tmp_path, gunicorn, **changes))
        return started[-1]

    yield start
    for web in started:
        web.kill()

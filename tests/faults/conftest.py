"""Servers that a test may spoil: a Redis of its own, the network to it, and web processes."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from queues.models import Source
from queues.operations import save_queue
from tests.faults.producers import QUEUE, KeptConnection
from tests.queues.samples import spec
from tests.support.bad_network import BadNetwork
from tests.support.servers import ValkeyServer
from tests.support.web import WebProcess, database_variables

StartWeb = Callable[..., WebProcess]


@pytest.fixture
def start_web(configuration: None, tmp_path: Path) -> Iterator[StartWeb]:
    """Return what starts a server that knows a queue from the database."""
    save_queue(spec=spec(QUEUE), source=Source.API)
    started: list[WebProcess] = []

    def start(redis_url: str, **variables: Any) -> WebProcess:
        urls = {"REDIS_URL": redis_url, "RUNQY_WORKER_REDIS_URL": "redis://:of-workers@127.0.0.1"}
        started.append(WebProcess(tmp_path, **database_variables() | urls | variables))
        return started[-1]

    yield start
    for web in started:
        web.kill()


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """Return a Redis that loses nothing that it acknowledged."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.stop()


@pytest.fixture
def stored(valkey: ValkeyServer) -> Iterator[redis_py.Redis]:
    """Return a plain client for that Redis."""
    client = valkey.client()
    yield client
    client.close()


@pytest.fixture
def network(valkey: ValkeyServer) -> Iterator[BadNetwork]:
    """Return the way from the web process to that Redis."""
    seed = random.randrange(2**32)
    print("seed", seed)
    network = BadNetwork(valkey.port, random.Random(seed))
    yield network
    network.close()


@pytest.fixture
def web(start_web: StartWeb, valkey: ValkeyServer) -> WebProcess:
    """Return a server on that Redis."""
    return start_web(valkey.url)


@pytest.fixture
def distant_web(start_web: StartWeb, network: BadNetwork) -> WebProcess:
    """Return a server that reaches that Redis through the network."""
    return start_web(f"redis://127.0.0.1:{network.port}/0")


@pytest.fixture
def connect() -> Iterator[Callable[[WebProcess], KeptConnection]]:
    """Return what connects a client to a server."""
    opened: list[KeptConnection] = []

    def connect(web: WebProcess) -> KeptConnection:
        opened.append(KeptConnection(web.port))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()

"""Servers that a test may break: a Redis of its own, the network to it, and web processes."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from queues.models import QueueSource
from queues.operations import save_queue
from tests.faults.producers import QUEUE, KeptConnection
from tests.faults.servers import StartWeb, recover, remove_tasks, start_web_process
from tests.queues.samples import spec
from tests.support.bad_network import BYTES_PER_S, LATENCY_S, LOSS, BadNetwork, FaultMode
from tests.support.servers import ValkeyServer
from tests.support.web import WebProcess


@pytest.fixture
def saved_queue(configuration: None) -> None:
    """Save a queue; a web process that starts reads and publishes it."""
    save_queue(spec=spec(QUEUE), source=QueueSource.API)


@pytest.fixture
def start_web(saved_queue: None, tmp_path: Path) -> Iterator[StartWeb]:
    """Return a function that starts a server for the test alone, with the queue."""
    started: list[WebProcess] = []

    def start(redis_url: str, **variables: Any) -> WebProcess:
        started.append(start_web_process(tmp_path, redis_url, **variables))
        return started[-1]

    yield start
    for web in started:
        web.kill()


@pytest.fixture(scope="module")
def _shared_webs() -> Iterator[dict[str, WebProcess]]:
    """Keep the servers that the tests of a module share, by what they were started with."""
    webs: dict[str, WebProcess] = {}
    yield webs
    for web in webs.values():
        web.kill()


@pytest.fixture
def share_web(
    saved_queue: None,
    stored: redis_py.Redis,
    _shared_webs: dict[str, WebProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> StartWeb:
    """Return a function that returns the module's server, recovered from earlier tests."""

    def share(redis_url: str, *gunicorn: Sequence[str], **variables: Any) -> WebProcess:
        name = f"{redis_url} {gunicorn} {variables}"
        if name not in _shared_webs:
            _shared_webs[name] = start_web_process(tmp_path_factory.mktemp("web"), redis_url, *gunicorn, **variables)
        recover(_shared_webs[name], stored)
        return _shared_webs[name]

    return share


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """Return a Redis that loses nothing that it acknowledged; a test that breaks it repairs it."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.stop()


@pytest.fixture
def stored(valkey: ValkeyServer) -> Iterator[redis_py.Redis]:
    """Return a plain client for that Redis; it holds no tasks, and what servers publish there."""
    if valkey.process is None:
        valkey.start()
    with valkey.client() as client:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        remove_tasks(client)
        yield client


@pytest.fixture(scope="module")
def _shared_network(valkey: ValkeyServer) -> Iterator[tuple[BadNetwork, random.Random]]:
    chance = random.Random()
    network = BadNetwork(valkey.port, chance)
    yield network, chance
    network.close()


@pytest.fixture
def network(_shared_network: tuple[BadNetwork, random.Random]) -> Iterator[BadNetwork]:
    """Return the way from the distant web process to that Redis."""
    network, chance = _shared_network
    seed = random.randrange(2**32)
    print("seed", seed)
    chance.seed(seed)
    yield network
    network.reset()  # another server that the tests share may have connections that this one made deaf
    network.mode = FaultMode.FINE
    network.latency_s, network.loss, network.bytes_per_s = LATENCY_S, LOSS, BYTES_PER_S


@pytest.fixture
def web(share_web: StartWeb, valkey: ValkeyServer) -> WebProcess:
    """Return a server on that Redis."""
    return share_web(valkey.url)


@pytest.fixture
def distant_web(share_web: StartWeb, network: BadNetwork) -> WebProcess:
    """Return a server that reaches that Redis through the network."""
    return share_web(f"redis://127.0.0.1:{network.port}/0")


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

"""With a Redis that hangs, what needs only the database is served in about a second, on each kind of Redis."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from runqy.accounts.operations import create_api_key
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.configuration import snapshot
from runqy.core.api_keys import Role
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.formats.durations import Rate
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.support.event_loop import run_with_broker
from tests.support.links import execute
from tests.support.patience import use_servers_limits
from tests.support.processes import paused
from tests.support.redis_client import redis_of
from tests.support.servers import MASTER_NAME, ValkeyServer, start_cluster, start_sentinel
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault

SOON_S = 1.9
"""About a second is meant."""
AT_ONCE_S = 0.4
TRIES = 5
"""How often a busy machine may try to be so quick."""

Servers = tuple[RedisTarget, list[ValkeyServer]]


def single() -> Servers:
    server = ValkeyServer().start()
    return RedisTarget(addresses=(("127.0.0.1", server.port),)), [server]


def sentinel() -> Servers:
    servers = start_sentinel()
    address = ("127.0.0.1", servers.sentinel.port)
    target = RedisTarget(mode="sentinel", addresses=(address,), master_name=MASTER_NAME)
    return target, [servers.sentinel, servers.replica, servers.master]


def cluster() -> Servers:
    nodes = start_cluster()
    return RedisTarget(mode="cluster", addresses=tuple(("127.0.0.1", node.port) for node in nodes)), nodes


@contextmanager
def silenced(servers: Sequence[ValkeyServer]) -> Iterator[None]:
    """Have servers accept connections without responding."""
    with paused(*[server.process.pid for server in servers if server.process is not None]):
        yield


@pytest.fixture(autouse=True)
def _waits_as_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    use_servers_limits(monkeypatch)


@pytest.fixture(params=[single, sentinel, pytest.param(cluster, marks=pytest.mark.cluster)], scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Servers]:
    make: Callable[[], Servers] = request.param
    target, servers = make()
    yield target, servers
    for server in servers:
        server.stop()


def seconds(act: Callable[[], object]) -> float:
    began_s = time.monotonic()
    act()
    return time.monotonic() - began_s


def check_quick(measure: Callable[[], Sequence[float]], limits_s: Sequence[float]) -> None:
    """Check that some acts are as quick as they should be, with other tries in case the machine was busy."""
    tries: list[Sequence[float]] = []
    for _ in range(TRIES):
        try:
            tries.append(measure())
        except BrokerUnavailable:  # before Redis was silenced
            continue
        if all(took_s < limit_s for took_s, limit_s in zip(tries[-1], limits_s, strict=True)):
            return
    pytest.fail(f"{tries} s, not {limits_s} s")


@pytest.fixture
def client(running: Servers, configuration: None, settings: Any) -> ApiClient:
    """Return a client with a key of the database whose requests are counted, in a process that uses these servers."""
    settings.REDIS_TARGET, settings.RUNQY_RATE_LIMIT = running[0], Rate(1000, 60)
    return ApiClient(create_api_key(name="k", role=Role.ADMIN).plain)


def list_keys(client: ApiClient) -> None:
    assert client.get("/api/keys").status_code == 200


def is_used() -> bool:
    """Return whether the process uses its Redis; for a second after a wait without a response it does not."""
    try:
        execute(get_broker(), command("GET", "k", key="k"))
    except BrokerUnavailable:
        return False
    return True


def soon_s(target: RedisTarget) -> float:
    """Return what a list may take: in a cluster the configuration and the rate are on two servers, a second each."""
    return 2 * SOON_S if target.mode == "cluster" else SOON_S


def test_a_list_from_the_database_takes_about_a_second(client: ApiClient, running: Servers) -> None:
    def measure() -> list[float]:
        wait_until(is_used)
        list_keys(client)
        with silenced(running[1]):
            return [seconds(lambda: list_keys(client)) for _ in range(3)]

    check_quick(measure, [soon_s(running[0])] * 3)


def test_a_process_that_was_never_connected_takes_about_a_second(
    client: ApiClient, running: Servers, settings: Any
) -> None:
    numbers = count()

    def measure() -> list[float]:
        another = replace(running[0], username="default", password=f"p{next(numbers)}")
        settings.REDIS_TARGET = another  # to which there is no connection
        snapshot.forget()
        with silenced(running[1]):
            return [seconds(lambda: list_keys(client)) for _ in range(3)]

    check_quick(measure, [soon_s(running[0])] * 3)


def fail(broker: Broker, key: str = "k") -> None:
    with pytest.raises(BrokerUnavailable):
        execute(broker, command("GET", key, key=key))


def test_after_a_timeout_requests_fail_at_once_for_a_second(running: Servers) -> None:
    target, servers = running

    def measure() -> tuple[float, float]:
        broker = Broker(target)
        broker.measure_clock()
        with silenced(servers):
            return seconds(lambda: fail(broker)), seconds(lambda: fail(broker))

    check_quick(measure, (SOON_S, AT_ONCE_S))


def test_on_an_event_loop_requests_fail_at_once_while_redis_is_silent(running: Servers) -> None:
    target, servers = running

    async def fail_on_loop(broker: AsyncBroker) -> float:
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await broker.send(Request((command("GET", "k", key="k"),), list))
        return time.monotonic() - began_s

    async def act(broker: AsyncBroker) -> tuple[float, float]:
        await broker.send(Request((command("GET", "k", key="k"),), list))
        with silenced(servers):
            return await fail_on_loop(broker), await fail_on_loop(broker)

    check_quick(lambda: run_with_broker(target, act), (SOON_S, AT_ONCE_S))


@pytest.mark.cluster
def test_a_hanging_node_delays_no_request_to_others() -> None:
    target, nodes = cluster()
    broker = Broker(target)
    by_port = {redis_of(broker).get_node_from_key(f"k{n}").port: f"k{n}" for n in range(50)}  # type: ignore[union-attr]
    hung, *others = nodes

    def measure() -> list[float]:
        return [
            seconds(lambda k=key: execute(broker, command("GET", k, key=k)))
            for key in (by_port[node.port] for node in others)  # type: ignore[misc]
        ]

    try:
        with silenced([hung]):
            fail(broker, by_port[hung.port])
            check_quick(measure, [AT_ONCE_S] * len(others))
    finally:
        for node in nodes:
            node.stop()

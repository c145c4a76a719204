"""A cluster on an event loop: its slots move, its masters die, and each command still reaches its key."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest
import redis as redis_py
from redis.crc import key_slot

from runqy.broker import keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.connection import async_node
from runqy.broker.keys import QueueKeys
from runqy.broker.memory import send_with_memory_check
from runqy.broker.request import Request
from runqy.broker.scripts import Script, command
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import NewTask, draw_task_ids, enqueue
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, OutcomeUnknown
from tests.broker.test_clock import HOUR_S
from tests.support.event_loop import run_with_broker, wait_until
from tests.support.redis_client import redis_of
from tests.support.servers import ValkeyServer, free_port, start_cluster
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

KEY = "{moving}key"
SLOT = key_slot(KEY.encode())
PING = Request((command("PING", key=None),), list)
COUNT = Script("count", "-- Count.\n-- KEYS key\nreturn redis.call('INCR', KEYS[1])")
CONFIRM_S = PATIENCE_S


def add(key: str = KEY) -> Request[int]:
    """Return a request whose outcome is how often it ran."""
    return Request((COUNT(key=key),), lambda replies: replies[0], is_repeatable=True)


@pytest.fixture
def servers() -> Iterator[list[ValkeyServer]]:
    """Return a cluster that a test may break."""
    servers = start_cluster()
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def clients(servers: list[ValkeyServer]) -> Iterator[list[redis_py.Redis]]:
    """Return a client of each node, that of the slot first."""
    clients = [server.client() for server in servers]
    clients.sort(key=lambda client: not owns_slot(client))
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def target(servers: list[ValkeyServer]) -> RedisTarget:
    return RedisTarget(mode="cluster", addresses=tuple(("127.0.0.1", server.port) for server in servers))


def owns_slot(client: redis_py.Redis) -> bool:
    """Return whether a node serves the slot that moves."""
    try:
        client.execute_command("GET", KEY)
    except redis_py.ResponseError:
        return False
    return True


def node_id(client: redis_py.Redis) -> str:
    return client.execute_command("CLUSTER", "MYID").decode()


@contextmanager
def migrating(source: redis_py.Redis, target: redis_py.Redis) -> Iterator[None]:
    """Have the slot on its way from one node to another."""
    target.execute_command("CLUSTER", "SETSLOT", SLOT, "IMPORTING", node_id(source))
    source.execute_command("CLUSTER", "SETSLOT", SLOT, "MIGRATING", node_id(target))
    yield


def move_slot(source: redis_py.Redis, target: redis_py.Redis) -> None:
    """Move the slot and its key."""
    with migrating(source, target):
        port = target.connection_pool.connection_kwargs["port"]
        source.execute_command("MIGRATE", "127.0.0.1", port, KEY, 0, 60_000)
    for client in (target, source):
        client.execute_command("CLUSTER", "SETSLOT", SLOT, "NODE", node_id(target))


def count_calls(client: redis_py.Redis, name: str) -> int:
    """Return how often a node ran a command."""
    stats: dict[str, Any] = client.info("commandstats")
    return stats.get(f"cmdstat_{name}", {}).get("calls", 0)


def test_a_slot_that_moved_is_found_at_its_new_node(target: RedisTarget, clients: list[redis_py.Redis]) -> None:
    source, new, _ = clients

    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(add()) == 1
        move_slot(source, new)

        assert sorted(await asyncio.gather(*(broker.send(add()) for _ in range(20)))) == list(range(2, 22))

        source.config_resetstat()
        assert await broker.send(add()) == 22
        assert count_calls(source, "evalsha") == 0  # the move is known from now on

    run_with_broker(target, act)


def test_a_key_that_has_migrated_is_read_from_the_new_node(target: RedisTarget, clients: list[redis_py.Redis]) -> None:
    source, new, _ = clients

    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(add("warm up")) == 1
        with migrating(source, new):
            assert await broker.send(add()) == 1  # the node has no such script yet
            assert await broker.send(add()) == 2
            plain = Request((command("INCR", KEY, key=KEY),), lambda replies: replies[0])
            assert await broker.send_all([plain, add(), plain]) == [3, 4, 5]

        assert count_calls(new, "asking") == 5
        assert source.execute_command("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 0

    run_with_broker(target, act)


def test_commands_of_one_request_reach_all_nodes_while_slots_move(
    target: RedisTarget, clients: list[redis_py.Redis]
) -> None:
    source, new, _ = clients
    names = [KEY, *(f"k{i}" for i in range(50))]
    write = Request(tuple(command("SET", key, key, key=key) for key in names), len)
    read = Request(tuple(command("GET", key, key=key) for key in names), list)

    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(write) == len(names)
        move_slot(source, new)
        assert await broker.send(read) == [key.encode() for key in names]

    run_with_broker(target, act)


def test_a_master_that_is_replaced_is_found_once_the_cluster_agrees(
    target: RedisTarget, clients: list[redis_py.Redis], servers: list[ValkeyServer]
) -> None:
    source = clients[0]
    master = next(s for s in servers if s.port == source.connection_pool.connection_kwargs["port"])
    replica = ValkeyServer("--cluster-enabled", "yes", "--cluster-node-timeout", "500").start()

    async def act(broker: AsyncBroker) -> None:
        with replica.client() as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", master.port)
            await wait_until(lambda: follows(client, source), CONFIRM_S)
            await wait_until(lambda: client.info("replication").get("master_link_status") == "up", CONFIRM_S)
            assert await broker.send(add()) == 1
            await wait_until(lambda: client.dbsize() == 1, CONFIRM_S)
            client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")  # an election may take longer than it may last
            await wait_until(lambda: client.info("replication")["role"] == "master", CONFIRM_S)
            master.kill()

            assert await eventually(broker, add()) == 2
            assert await broker.send(add()) == 3

    run_with_broker(target, act)
    replica.stop()


def follows(replica: redis_py.Redis, master: redis_py.Redis) -> bool:
    """Make a node the replica of another as soon as it knows that one."""
    try:
        replica.execute_command("CLUSTER", "REPLICATE", node_id(master))
    except redis_py.ResponseError:
        return False
    return True


async def eventually(broker: AsyncBroker, request: Request[Any]) -> Any:
    """Run a request until Redis is available."""
    outcomes: list[Any] = []
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while not outcomes:
        try:
            outcomes.append(await broker.send(request))
        except BrokerUnavailable:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.05)
    return outcomes[0]


def node_name(server: ValkeyServer) -> str:
    return f"127.0.0.1:{server.port}"


def names_on(broker: AsyncBroker, node: str) -> Iterator[str]:
    """Return names whose hash tags have their slots on a node, once the broker knows the nodes."""
    return (name for name in map(str, itertools.count()) if broker.node_of(f"{{{name}}}") == node)


async def kill(server: ValkeyServer, broker: AsyncBroker) -> None:
    """Kill a master, and return when the broker knows."""
    server.kill()
    with suppress(BrokerUnavailable):
        while True:
            await broker.send_to(node_name(server), PING)


def set_keys(*names: str) -> Request[list[bytes]]:
    return Request(tuple(command("SET", f"{{{name}}}", "1", key=f"{{{name}}}") for name in names), list)


def test_a_master_that_died_fails_only_its_own_commands(target: RedisTarget, servers: list[ValkeyServer]) -> None:
    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(add()) == 1
        names = [next(names_on(broker, node_name(server))) for server in servers]
        await broker.send(set_keys(*names))
        await kill(servers[1], broker)

        outcomes = await broker.send_all([set_keys(name) for name in names])
        assert [type(outcome) for outcome in outcomes] == [list, BrokerUnavailable, list]
        with pytest.raises(OutcomeUnknown):
            await broker.send(set_keys(*names))
        with pytest.raises(BrokerUnavailable) as raised:
            await broker.send_all([set_keys(names[1])] * 2)
        assert type(raised.value) is BrokerUnavailable

    run_with_broker(target, act)


def test_the_connections_to_a_master_that_is_back_are_used_again_together(
    target: RedisTarget, servers: list[ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(broker: AsyncBroker) -> None:
        await broker.nodes()
        name = next(names_on(broker, node_name(servers[1])))
        bulky = msgspec.structs.replace(set_keys(name), is_bulky=True)
        await broker.send(bulky)
        monkeypatch.setattr(async_node, "reconnect_delay_s", lambda _: HOUR_S)
        servers[1].kill()
        reason = ""
        while "Connect call failed" not in reason:
            with pytest.raises(BrokerUnavailable) as raised:
                await broker.send(bulky)
            reason = raised.value.reason
        servers[1].start()

        await broker.send_to(node_name(servers[1]), PING)

        await eventually(broker, bulky)

    run_with_broker(target, act)


@pytest.mark.parametrize("key", [keys.SERVED, keys.QUEUES])
def test_a_task_is_stored_while_a_master_with_other_keys_is_away(
    target: RedisTarget, servers: list[ValkeyServer], key: str
) -> None:
    async def act(broker: AsyncBroker) -> None:
        await broker.send(add())
        away, *others = sorted(servers, key=lambda server: broker.node_of(key) != node_name(server))
        queue = next(names_on(broker, node_name(others[0])))
        task_id = next(i for i in map(str, itertools.count()) if broker.node_of(keys.lookup(i)) == node_name(others[1]))
        task = NewTask(id=task_id, queue=queue, payload=b"{}")
        await kill(away, broker)

        requested = enqueue(task, now_ns=broker.now_ns())
        state = await send_with_memory_check(broker, requested, queue=queue, size_bytes=len(task.payload))

        assert state is TaskState.PENDING
        with others[0].client() as client:
            assert client.lrange(QueueKeys.of(queue).pending, 0, -1) == [task_id.encode()]

    run_with_broker(target, act)


def test_the_ids_of_tasks_have_their_index_entries_on_the_master_of_their_queue(
    target: RedisTarget, servers: list[ValkeyServer]
) -> None:
    async def act(broker: AsyncBroker) -> None:
        assert len(draw_task_ids(broker, "unknown", 2)) == 2  # before the topology is known
        nodes = await broker.nodes()
        for node in nodes:
            queue = next(names_on(broker, node))
            ids = draw_task_ids(broker, queue, 30)
            assert len(set(ids)) == 30
            assert {broker.node_of(keys.lookup(task_id)) for task_id in ids} == {node}
        assert len(nodes) == len(servers)

    run_with_broker(target, act)


def test_a_task_has_an_unknown_outcome_if_it_was_stored_while_the_master_with_its_index_entry_is_away(
    target: RedisTarget, servers: list[ValkeyServer]
) -> None:
    async def act(broker: AsyncBroker) -> None:
        await broker.send(add())
        away, home, _ = servers
        queue = next(names_on(broker, node_name(home)))
        ids = {broker.node_of(keys.lookup(i)): i for i in map(str, range(100))}
        await kill(away, broker)

        request = enqueue(NewTask(id=ids[node_name(away)], queue=queue, payload=b"{}"), now_ns=broker.now_ns())
        with pytest.raises(OutcomeUnknown):
            await broker.send(request)

        queue = next(names_on(broker, node_name(away)))
        request = enqueue(NewTask(id=ids[node_name(home)], queue=queue, payload=b"{}"), now_ns=broker.now_ns())
        with pytest.raises(BrokerUnavailable) as raised:
            await broker.send(request)
        assert type(raised.value) is BrokerUnavailable  # its index entry alone is no task

    run_with_broker(target, act)


def test_a_slot_that_no_node_serves_makes_the_cluster_unavailable_at_once(
    target: RedisTarget, clients: list[redis_py.Redis]
) -> None:
    source = clients[0]

    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(add()) == 1
        source.execute_command("CLUSTER", "DELSLOTS", SLOT)
        await wait_until(lambda: b"cluster_state:fail" in source.execute_command("CLUSTER", "INFO"), CONFIRM_S)

        async with asyncio.timeout(CONFIRM_S):
            with pytest.raises(BrokerUnavailable):
                await broker.send(add())

    run_with_broker(target, act)


def test_a_cluster_without_replying_nodes_is_unavailable() -> None:
    target = RedisTarget(mode="cluster", addresses=(("127.0.0.1", free_port()), ("127.0.0.1", free_port())))

    async def act(broker: AsyncBroker) -> None:
        async with asyncio.timeout(CONFIRM_S):
            with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                await broker.send(add())
            with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                await broker.measure_clock()

    run_with_broker(target, act)


def test_concurrent_requests_refresh_the_topology_once(cluster_broker: Broker, cluster_target: RedisTarget) -> None:
    def count_looks() -> int:
        stats = redis_of(cluster_broker).info("commandstats", target_nodes="primaries")
        return sum(node.get("cmdstat_cluster|slots", {}).get("calls", 0) for node in stats.values())

    async def act(broker: AsyncBroker) -> None:
        before = count_looks()
        await asyncio.gather(*(broker.send(add(f"k{i}")) for i in range(100)))
        assert count_looks() == before + 1

    run_with_broker(cluster_target, act)

"""A web process whose cluster moves a slot, or loses a node, under load."""

from collections.abc import Iterator

import pytest
import redis as redis_py
from redis.crc import key_slot

from tests.faults.producers import BATCH_SIZE, ENQUEUE, ENQUEUE_BATCH, UNAVAILABLE, is_accepted, producing
from tests.faults.servers import RECOVERED_S, StartWeb
from tests.faults.stored import KEYS, check_tasks
from tests.support.servers import ValkeyServer, start_cluster

pytestmark = [pytest.mark.fault, pytest.mark.cluster]

SLOT = key_slot(KEYS.pending.encode())
LOAD = (ENQUEUE, ENQUEUE, ENQUEUE, ENQUEUE_BATCH)


@pytest.fixture
def nodes() -> Iterator[list[ValkeyServer]]:
    """Return a cluster that the test may break."""
    servers = start_cluster()
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def clients(nodes: list[ValkeyServer]) -> Iterator[list[redis_py.Redis]]:
    """Return a client of each node, that of the queue's slot first."""
    clients = [server.client() for server in nodes]
    clients.sort(key=lambda client: not owns_slot(client))
    yield clients
    for client in clients:
        client.close()


def owns_slot(node: redis_py.Redis) -> bool:
    """Return whether a node serves the queue's slot."""
    my_id = node.execute_command("CLUSTER", "MYID")
    shards = node.execute_command("CLUSTER", "SLOTS")
    return any(first <= SLOT <= last and master[2] == my_id for first, last, master, *_ in shards)


def move_slot(source: redis_py.Redis, target: redis_py.Redis) -> None:
    """Move the queue's slot, key by key, while it is used."""
    port = target.connection_pool.connection_kwargs["port"]
    source_id, target_id = (node.execute_command("CLUSTER", "MYID").decode() for node in (source, target))
    target.execute_command("CLUSTER", "SETSLOT", SLOT, "IMPORTING", source_id)
    source.execute_command("CLUSTER", "SETSLOT", SLOT, "MIGRATING", target_id)
    while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", SLOT, 20):
        source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 60_000, "KEYS", *keys)
    for node in (target, source):
        node.execute_command("CLUSTER", "SETSLOT", SLOT, "NODE", target_id)


def test_no_accepted_task_is_lost_while_the_slot_of_its_queue_moves(
    start_web: StartWeb, nodes: list[ValkeyServer], clients: list[redis_py.Redis]
) -> None:
    home, other, _ = clients
    web = start_web("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes))

    with producing(web.port, *LOAD) as producers:
        for source, target in ((home, other), (other, home)):
            producers.wait_for(is_accepted, 40)
            move_slot(source, target)
        recovery_s = producers.wait_for(is_accepted, 40, timeout_s=RECOVERED_S)

    assert recovery_s < RECOVERED_S, f"it took {recovery_s:.1f} s until tasks were accepted again"
    outcomes = producers.outcomes()
    assert outcomes.keys() <= {(200, ""), *UNAVAILABLE}, outcomes
    check_tasks(producers.ids, *clients, allows_lookups=True)
    in_doubt = outcomes[503, "outcome_unknown"] * BATCH_SIZE
    assert home.llen(KEYS.pending) <= len(producers.ids) + in_doubt

"""Checking the health of Redis."""

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.health import check_health, check_nodes, probe_writes
from runqy.broker.scanning import KeyScanner
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerFull, BrokerUnavailable
from tests.support.redis_client import redis_of
from tests.support.servers import free_port


def test_a_redis_that_keeps_tasks_and_accepts_writes_is_healthy(broker):
    nodes, written = broker.run(check_nodes(broker)), probe_writes(broker)

    assert [node.may_lose_tasks for node in nodes] == [False] * len(broker.run(broker.nodes()))
    assert written == [None] * len(nodes)
    assert 0 < redis_of(broker).ttl(keys.probe(0)) <= 60


@pytest.mark.cluster
def test_every_master_of_a_cluster_is_looked_at(cluster_broker):
    masters = list(redis_of(cluster_broker).get_primaries())
    misconfigured = [redis_of(cluster_broker).get_redis_connection(node) for node in masters[1:]]
    misconfigured[0].config_set("maxmemory-policy", "allkeys-lru")
    misconfigured[1].config_set("maxmemory", "1mb")

    try:
        nodes, written = cluster_broker.run(check_nodes(cluster_broker)), probe_writes(cluster_broker)
    finally:
        misconfigured[0].config_set("maxmemory-policy", "noeviction")
        misconfigured[1].config_set("maxmemory", "0")

    assert sorted(node.eviction_policy for node in nodes) == ["allkeys-lru", "noeviction", "noeviction"]
    assert [type(error) for error in written if error] == [BrokerFull]


def connections_of(broker):
    """Return how many connections there are to each master of a cluster."""
    nodes = redis_of(broker).get_primaries()
    pools = [redis_of(broker).get_redis_connection(node).connection_pool for node in nodes]
    return [sum(count for count, _ in pool.get_connection_count()) for pool in pools]


@pytest.mark.cluster
def test_checking_nodes_repeatedly_opens_no_more_connections(cluster_broker):
    walk = KeyScanner("*", 10)
    opened = []
    for _ in range(30):
        cluster_broker.run(walk.next_keys(cluster_broker))
        cluster_broker.run(check_nodes(cluster_broker))
        opened.append(connections_of(cluster_broker))

    assert opened[-1] == opened[0]


def test_health_is_reported_when_redis_is_full(own_server):
    own_server.client().config_set("maxmemory", "1mb")
    broker = Broker(own_server.target)

    nodes, written = broker.run(check_nodes(broker)), probe_writes(broker)

    assert [node.eviction_policy for node in nodes] == ["noeviction"]
    assert [type(error) for error in written] == [BrokerFull]


def test_a_replica_takes_no_writes(own_server):
    own_server.client().execute_command("REPLICAOF", "127.0.0.1", free_port())

    written = probe_writes(Broker(own_server.target))

    assert [type(error) for error in written] == [BrokerUnavailable]


def test_a_redis_that_is_away_is_unavailable():
    broker = Broker(RedisTarget(addresses=(("127.0.0.1", free_port()),)))

    with pytest.raises(BrokerUnavailable):
        broker.run(check_health())

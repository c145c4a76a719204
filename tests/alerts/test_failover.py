"""A failover of Redis opens an alert, once; a restart of a server that has all its data opens none."""

from collections.abc import Callable

import pytest
import redis as redis_py

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import update_alerts
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.servers import SentinelSet, ValkeyServer, start_cluster
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]


def look(broker: Broker) -> bool:
    """Update the alerts; return whether Redis was available."""
    try:
        update_alerts(broker)
    except BrokerUnavailable:
        return False
    return True


def opened() -> list[Alert]:
    return list(Alert.objects.filter(kind=AlertKind.REDIS_FAILOVER, opened_at__isnull=False))


def has(client: redis_py.Redis, **fields: object) -> Callable[[], bool]:
    return lambda: {**client.info("replication"), **fields} == client.info("replication")


def test_a_failover_by_sentinel_opens_an_alert(sentinel_set: SentinelSet, sentinel_broker: Broker) -> None:
    update_alerts(sentinel_broker)
    assert opened() == []

    sentinel_set.kill_master()
    wait_until(lambda: look(sentinel_broker), PATIENCE_S)

    (alert,) = opened()
    assert alert.message.startswith("Redis failed over to a replica")
    assert "Idempotency-Key" in alert.message
    look(sentinel_broker)
    assert opened() == [alert]


def test_two_promotions_between_two_looks_open_an_alert(sentinel_set: SentinelSet, sentinel_broker: Broker) -> None:
    update_alerts(sentinel_broker)
    last = ValkeyServer("--replicaof", "127.0.0.1", str(sentinel_set.replica.port)).start()
    with sentinel_set.replica.client() as first, last.client() as second:
        wait_until(has(second, master_link_status="up"), PATIENCE_S)
        first.replicaof("NO", "ONE")
        new_id = first.info("replication")["master_replid"]
        wait_until(has(second, master_replid=new_id, master_link_status="up"), PATIENCE_S)
        second.replicaof("NO", "ONE")
    promoted = Broker(RedisTarget(addresses=(("127.0.0.1", last.port),)))

    update_alerts(promoted)

    assert len(opened()) == 1
    promoted.close()
    last.stop()


def test_a_restart_from_the_append_only_file_opens_none(sentinel_set: SentinelSet, sentinel_broker: Broker) -> None:
    with sentinel_set.master.client() as master:
        master.config_set("appendonly", "yes")
        wait_until(lambda: not master.info("persistence")["aof_rewrite_in_progress"], PATIENCE_S)
        old_id = master.info("replication")["master_replid"]
    update_alerts(sentinel_broker)

    sentinel_set.master.kill()
    sentinel_set.master.options = (*sentinel_set.master.options, "--appendonly", "yes")
    sentinel_set.master.start()
    wait_until(lambda: look(sentinel_broker), PATIENCE_S)

    with sentinel_set.master.client() as master:
        assert master.info("replication")["master_replid"] != old_id
    assert opened() == []


@pytest.mark.cluster
def test_each_master_of_a_cluster_is_looked_at() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    servers = start_cluster()
    replica = ValkeyServer("--cluster-enabled", "yes").start()
    broker = Broker(RedisTarget(mode="cluster", addresses=tuple(("127.0.0.1", s.port) for s in servers)))
    queue_port = redis_of(broker).get_node_from_key(QueueKeys("mail").pending).port
    old = next(server for server in servers if server.port == queue_port)

    with replica.client() as client, old.client() as master:
        master_id = master.execute_command("CLUSTER", "MYID").decode()
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", old.port)
        wait_until(lambda: follows(client, master_id), PATIENCE_S)
        wait_until(has(client, master_link_status="up"), PATIENCE_S)
        update_alerts(broker)  # not before: a master gets another id with its first replica
        assert opened() == []
        client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_until(has(client, role="master"), PATIENCE_S)
    old.kill()
    wait_until(lambda: look(broker) and bool(opened()), PATIENCE_S)

    (alert,) = opened()
    assert alert.message.startswith(f"Redis server 127.0.0.1:{replica.port} failed over to a replica")
    broker.close()
    for server in (*servers, replica):
        server.stop()


def follows(replica: redis_py.Redis, master_id: str) -> bool:
    """Make a node the replica of another as soon as it knows that one."""
    try:
        replica.execute_command("CLUSTER", "REPLICATE", master_id)
    except redis_py.ResponseError:
        return False
    return True

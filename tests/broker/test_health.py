"""What is asked of Redis to know whether it can do its work."""

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker, raised
from runqy.broker.connection import RedisTarget
from runqy.broker.health import check_health, probe_write
from runqy.errors import BrokerFull, BrokerUnavailable
from tests.support.servers import ValkeyServer, free_port


@pytest.fixture
def own_server():
    """Return a server that a test may spoil."""
    server = ValkeyServer().start()
    yield server
    server.stop()


def test_a_redis_that_keeps_tasks_and_takes_writes_is_well(broker):
    health, written = broker.run_all([check_health(), probe_write()])

    assert raised(health).may_lose_tasks is False
    assert raised(written) is None
    assert 0 < broker.client.ttl(keys.PROBE) <= 60


def test_a_full_redis_still_answers(own_server):
    own_server.client().config_set("maxmemory", "1mb")
    broker = Broker(own_server.client())

    health, written = broker.run_all([check_health(), probe_write()])

    assert raised(health).eviction_policy == "noeviction"
    assert isinstance(written, BrokerFull)


def test_a_replica_takes_no_writes(own_server):
    own_server.client().execute_command("REPLICAOF", "127.0.0.1", free_port())
    broker = Broker(own_server.client())

    with pytest.raises(BrokerUnavailable):
        broker.run(probe_write())


def test_a_redis_that_is_away_is_unavailable():
    broker = Broker.connect(RedisTarget(addresses=(("127.0.0.1", free_port()),)))

    with pytest.raises(BrokerUnavailable):
        broker.run(check_health())

"""Redis users of workers after a restart or failover, and on each node of a cluster."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_py

from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.worker_credentials import RedisUserReconciler, remove_users_of_keys
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.workers.redis_users import list_users
from runqy.configuration.publishing import republish_configuration
from runqy.core.environment.connection_urls import RedisTarget
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.support.environment import SERVER
from tests.support.event_loop import run_with_broker
from tests.support.servers import MASTER_NAME, SentinelSet, ValkeyServer
from tests.support.waiting import wait_until
from tests.workers.api.redis_users import enter, is_refused, register, users

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("redis_user_queues")]


def test_a_user_is_there_again_that_redis_lost_before_maintenance_saw_it(client: ApiClient) -> None:
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    entry = register(client)
    with SERVER.client() as redis:
        redis.acl_deluser(entry["username"])

    reconciler.run(get_broker())

    assert enter(entry).ping()


@pytest.fixture
def own_valkey(settings: Any) -> Iterator[ValkeyServer]:
    """Return a Redis that the test may end, to which the configuration is published."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", server.port),))
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET
    republish_configuration()
    yield server
    server.stop()


def test_users_are_there_again_after_redis_was_restarted(client: ApiClient, own_valkey: ValkeyServer) -> None:
    entry = register(client)
    register(client, "post")
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())

    own_valkey.kill()
    own_valkey.start()
    with enter(entry, own_valkey.port) as redis:
        assert is_refused(redis.ping)
    reconciler.run(get_broker())

    with enter(entry, own_valkey.port) as redis:
        assert redis.llen("asynq:{mail_high}:pending") == redis.llen("asynq:{post}:pending") == 0


def test_users_are_on_every_node_of_a_cluster_and_again_on_one_that_lost_them(
    client: ApiClient, settings: Any, cluster_broker: Broker, cluster_target: RedisTarget
) -> None:
    settings.REDIS_TARGET = settings.RUNQY_WORKER_REDIS_TARGET = cluster_target
    republish_configuration()
    created = create_api_key(name="gpu", role="worker")
    entry = register(ApiClient(created.plain))
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    assert list(cluster_broker.run(list_users(cluster_broker)).values()) == [{entry["username"]}] * 3

    with redis_py.Redis(port=cluster_target.addresses[1][1]) as node:
        node.acl_deluser(entry["username"])
    reconciler.run(get_broker())
    assert list(cluster_broker.run(list_users(cluster_broker)).values()) == [{entry["username"]}] * 3
    revoke_api_key(key_id=created.row.pk)

    assert users(cluster_broker) == set()


def test_users_are_on_the_new_master_after_a_failover(
    client: ApiClient, settings: Any, sentinel_set: SentinelSet
) -> None:
    addresses = (("127.0.0.1", sentinel_set.sentinel.port),)
    settings.REDIS_TARGET = RedisTarget(mode="sentinel", addresses=addresses, master_name=MASTER_NAME)
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET
    republish_configuration()
    entry = register(client)
    reconciler = RedisUserReconciler()
    reconciler.run(get_broker())
    sentinel_set.wait_for_replica()

    sentinel_set.kill_master()

    def is_back() -> bool:
        try:
            reconciler.run(get_broker())
        except Exception:  # noqa: BLE001 (Redis is briefly unavailable)
            return False
        with enter(entry, sentinel_set.replica.port) as redis:
            return not is_refused(redis.ping)

    wait_until(is_back, timeout_s=120)
    target = replace(settings.REDIS_TARGET, username=entry["username"], password=entry["password"])
    run_with_broker(target, AsyncBroker.measure_clock)  # a worker finds it by Sentinel


def test_removing_users_while_redis_is_away_is_no_error(settings: Any) -> None:
    settings.REDIS_TARGET = RedisTarget(addresses=(("127.0.0.1", 1),))

    remove_users_of_keys(["1"])

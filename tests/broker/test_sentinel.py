"""A master behind Sentinel: tasks continue when it dies and its replica is promoted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.connection import async_node
from runqy.broker.replies import translate_errors
from runqy.broker.request import Request
from runqy.broker.scripts import command
from runqy.broker.tasks.finish import FinishOutcome, complete
from runqy.broker.tasks.lease import LeasedTask
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable
from tests.support.event_loop import run_with_broker
from tests.support.fake_redis import FakeRedis
from tests.support.servers import MASTER_NAME, SentinelSet, ValkeyServer, free_port
from tests.support.tasks import ids, listed, put, take
from tests.support.waiting import wait_until

T = TypeVar("T")
FAILOVER_S = 60.0
"""Generous: a Sentinel needs about one second on an idle machine."""


def finish(broker: Broker, taken: LeasedTask) -> FinishOutcome:
    return broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))


def seen(broker: Broker) -> dict[str, list[str]]:
    """Return what is listed. Raise BrokerUnavailable while Sentinel still names the old master to redis-py."""
    with translate_errors():
        return listed(broker)


def once_available(act: Callable[[], T]) -> T:
    """Run a repeatable operation until Redis responds."""
    results: list[T] = []

    def is_done() -> bool:
        try:
            results.append(act())
        except BrokerUnavailable:
            return False
        return True

    wait_until(is_done, FAILOVER_S)
    return results[0]


def test_tasks_are_processed_after_the_master_was_killed(sentinel_set: SentinelSet, sentinel_broker: Broker) -> None:
    broker = sentinel_broker
    put(broker, "before", "held", "waiting")
    before, held = take(broker, 2)
    assert finish(broker, before) is FinishOutcome.COMPLETED
    sentinel_set.wait_for_replica()

    sentinel_set.kill_master()
    outcome = once_available(lambda: finish(broker, held))
    put(broker, "after")
    taken = take(broker, 5)
    outcomes = [finish(broker, one) for one in taken]

    assert outcome is FinishOutcome.COMPLETED
    assert ids(taken) == ["waiting", "after"]
    assert set(outcomes) == {FinishOutcome.COMPLETED}
    assert sorted(once_available(lambda: seen(broker))["completed"]) == ["after", "before", "held", "waiting"]
    with sentinel_set.replica.client() as promoted:
        assert promoted.info("replication")["role"] == "master"


def count(key: str) -> Request[int]:
    return Request((command("INCR", key, key=key),), lambda replies: replies[0])


async def once_available_on_loop(broker: AsyncBroker, request: Request[T]) -> T:
    """Run a request until Redis is available."""
    async with asyncio.timeout(FAILOVER_S):
        while True:
            try:
                return await broker.send(request)
            except BrokerUnavailable:
                await asyncio.sleep(0.02)


def target_of(servers: SentinelSet, *, dead_first: bool = False) -> RedisTarget:
    sentinels = [("127.0.0.1", servers.sentinel.port)]
    if dead_first:
        sentinels.insert(0, ("127.0.0.1", free_port()))
    return RedisTarget(mode="sentinel", addresses=tuple(sentinels), master_name=MASTER_NAME)


def test_an_event_loop_continues_with_the_new_master(sentinel_set: SentinelSet) -> None:
    async def act(broker: AsyncBroker) -> None:
        assert await asyncio.gather(*(broker.send(count("n")) for _ in range(10))) == list(range(1, 11))
        sentinel_set.wait_for_replica()
        sentinel_set.kill_master()

        assert await once_available_on_loop(broker, count("n")) == 11

        bulky = Request(count("n").commands, count("n").parse, is_bulky=True)
        assert await once_available_on_loop(broker, bulky) == 12

    run_with_broker(target_of(sentinel_set, dead_first=True), act)


def address_reply(port: int) -> bytes:
    """Return a port of this machine as Sentinel names it."""
    return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)


def test_a_master_that_was_demoted_while_connected_is_left(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ValkeyServer().start()
    named = [own_server.port]

    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(count("n")) == 1
        with own_server.client() as client:
            client.replicaof("127.0.0.1", other.port)
        named[0] = other.port
        monkeypatch.setattr(async_node, "CONNECT_WAIT_S", 0)  # how old a connection has to be
        with pytest.raises(BrokerUnavailable, match="read only replica"):
            await broker.send(count("m"))

        assert await once_available_on_loop(broker, count("m")) == 1

        with other.client() as client:
            assert client.get("m") == b"1"

    with FakeRedis(lambda _: address_reply(named[0])) as sentinel:
        run_with_broker(replace(sentinel.target, mode="sentinel", master_name=MASTER_NAME), act)
    other.stop()


def test_a_replica_is_not_used_as_the_master_that_sentinel_reports(sentinel_set: SentinelSet) -> None:
    async def act(broker: AsyncBroker) -> None:
        with pytest.raises(BrokerUnavailable, match="not a master"):
            await broker.send(count("n"))

    with FakeRedis(lambda _: address_reply(sentinel_set.replica.port)) as sentinel:
        run_with_broker(replace(target_of(sentinel_set), addresses=sentinel.target.addresses), act)


def test_a_sentinel_that_does_not_know_the_master_makes_it_unavailable(sentinel_set: SentinelSet) -> None:
    async def act(broker: AsyncBroker) -> None:
        with pytest.raises(BrokerUnavailable, match="does not know the master other"):
            await broker.send(count("n"))

    run_with_broker(replace(target_of(sentinel_set), master_name="other"), act)

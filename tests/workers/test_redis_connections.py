"""The connections to Redis that the queues of a worker share."""

from collections.abc import Awaitable, Callable

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.pubsub import WorkerEvent
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable
from tests.support import environment, event_loop
from tests.support.event_loop import wait_until
from tests.support.redis_client import redis_of
from tests.support.servers import free_port
from workers.runtime.redis_connections import ConnectionRegistry, WorkerSubscription

TARGET = RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))


def notices_after(act: Callable[[], object], count: int = 1) -> list[list[tuple[WorkerEvent, str]]]:
    """Return the events that each of some subscriptions received after an action, at least one each."""

    async def listen() -> list[list[tuple[WorkerEvent, str]]]:
        connections = await ConnectionRegistry().acquire(TARGET)
        received: list[list[tuple[WorkerEvent, str]]] = [[] for _ in range(count)]
        for position, notices in enumerate(received):
            await connections.listen(
                WorkerSubscription(f"token{position}", lambda *event, notices=notices: notices.append(event))
            )
        act()
        await wait_until(lambda: all(received))
        await connections.release()
        return received

    return event_loop.run(listen())


def test_a_change_of_a_queue_is_notified_with_its_name(single_broker: Broker) -> None:
    def change() -> None:
        redis_of(single_broker).publish(keys.CHANGED_CHANNEL, "mail")

    assert notices_after(change, count=2) == [[(WorkerEvent.CONFIGURATION, "mail")]] * 2


def test_a_wake_up_reaches_only_the_queue_it_is_for(single_broker: Broker) -> None:
    def wake() -> None:
        redis_of(single_broker).publish(keys.wake_channel("token1"), "b")
        redis_of(single_broker).publish(keys.CANCEL_CHANNEL, "t1")

    first, second = notices_after(wake, count=2)

    assert first == [(WorkerEvent.CANCELED, "t1")]
    assert second[0] == (WorkerEvent.WORK, "b")


def test_after_a_disconnection_anything_may_have_been_missed(single_broker: Broker) -> None:
    def disconnect() -> None:
        redis_of(single_broker).client_kill_filter(_type="pubsub")

    assert notices_after(disconnect, count=2) == [[(WorkerEvent.GAP, "")]] * 2


def run_with_registry(act: Callable[[ConnectionRegistry], Awaitable[None]]) -> None:
    event_loop.run(act(ConnectionRegistry()))  # type: ignore[arg-type]


def test_many_queues_share_the_connections_to_one_redis(single_broker: Broker) -> None:
    before = {client["id"] for client in redis_of(single_broker).client_list()}

    def connected() -> int:
        """Return how many connected since; those of other tests may end meanwhile."""
        return sum(client["id"] not in before for client in redis_of(single_broker).client_list())

    async def act(registry: ConnectionRegistry) -> None:
        users = [await registry.acquire(TARGET) for _ in range(50)]
        for position, connections in enumerate(users):
            await connections.listen(WorkerSubscription(f"token{position}", lambda *_: None))
            await connections.tasks.measure_clock()

        assert connected() <= 4
        for connections in users[1:]:
            await connections.release()
        await users[0].tasks.measure_clock()
        await users[0].release()
        await wait_until(lambda: not connected())
        again = await registry.acquire(TARGET)
        assert again is not users[0]
        await again.release()

    run_with_registry(act)


def test_an_unreachable_redis_is_tried_again(single_broker: Broker) -> None:
    async def act(registry: ConnectionRegistry) -> None:
        away = RedisTarget(addresses=(("127.0.0.1", free_port()),))
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await registry.acquire(away)
        await (await registry.acquire(TARGET)).release()

    run_with_registry(act)

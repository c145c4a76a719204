"""A subscription on an event loop: counted, confirmed, and kept after lost connections."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import pytest
import redis as redis_py

from runqy.broker import pubsub
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection.async_connection import AsyncConnection
from runqy.broker.pubsub import Subscriber
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment, event_loop
from tests.support.event_loop import SteppedLoop, run_in_steps, wait_until
from tests.support.processes import paused
from tests.support.servers import MASTER_NAME, SentinelSet, ValkeyServer
from tests.support.waiting import PATIENCE_S, eventually

T = TypeVar("T")

MASS_CALLBACK_S = 2.0
"""Allowed where a thousand futures are made at once: debug mode notes for each where that was."""
WAIT_S = PATIENCE_S


class Recorder:
    """A subscriber, the messages that it received and the gaps that it reported."""

    def __init__(self, source: AsyncBroker | RedisTarget) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.gaps = 0
        self.odd: bytes | None = None
        """A message that it raises for; with one it raises for gaps too."""
        self.subscriber = Subscriber(source, on_message=self._on_message, on_gap=self._on_gap)

    def _on_message(self, channel: str, data: bytes) -> None:
        self.messages.append((channel, data))
        if data == self.odd:
            raise ValueError(data)

    def _on_gap(self) -> None:
        self.gaps += 1
        if self.odd:
            raise ValueError(self.odd)


def run(source: RedisTarget, act: Callable[[Recorder], Awaitable[T]]) -> T:
    """Run a coroutine with a subscriber of its own."""

    async def main() -> T:
        event_loop.name_task()
        recorder = Recorder(source)
        await recorder.subscriber.start()
        try:
            return await act(recorder)
        finally:
            await recorder.subscriber.close()

    return event_loop.run(main())


def target_of(server: ValkeyServer) -> RedisTarget:
    return RedisTarget(addresses=(("127.0.0.1", server.port),))


@pytest.fixture
def target(redis: redis_py.Redis) -> RedisTarget:
    return target_of(environment.SERVER)


@pytest.fixture
def own_client(own_server: ValkeyServer) -> Iterator[redis_py.Redis]:
    client = own_server.client()
    yield client
    client.close()


def test_a_message_is_received_as_soon_as_the_subscription_is_confirmed(
    target: RedisTarget, redis: redis_py.Redis
) -> None:
    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c", "d"], timeout_s=WAIT_S)
        redis.publish("d", b"\xff1")
        await wait_until(lambda: recorder.messages)

        assert recorder.messages == [("d", b"\xff1")]
        assert recorder.gaps == 0

    run(target, act)


def test_what_raises_for_one_message_or_gap_costs_no_other_message(target: RedisTarget, redis: redis_py.Redis) -> None:
    async def act(recorder: Recorder) -> None:
        recorder.odd = b"\xff"
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        with redis.pipeline(transaction=False) as pipeline:
            for data in (b"before", recorder.odd, b"after"):
                pipeline.publish("c", data)
            pipeline.execute()
        await wait_until(lambda: ("c", b"after") in recorder.messages)
        assert recorder.gaps == 0

        redis.client_kill_filter(_type="pubsub")
        await wait_until(lambda: recorder.gaps)
        redis.publish("c", "later")
        await wait_until(lambda: ("c", b"later") in recorder.messages)

        assert recorder.gaps == 1

    run(target, act)


def passes_on(recorder: Recorder, client: redis_py.Redis, data: bytes) -> bool:
    """Publish and return whether the message arrived; nodes of a new cluster are not linked immediately."""
    client.publish("c", data)
    return ("c", data) in recorder.messages


@pytest.mark.cluster
def test_any_node_of_a_cluster_passes_messages_on(cluster_target: RedisTarget) -> None:
    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        for host, port in cluster_target.addresses:
            with redis_py.Redis(host, port) as client:
                await wait_until(partial(passes_on, recorder, client, b"%d" % port))

    run(cluster_target, act)


def test_a_channel_is_received_until_all_have_unsubscribed(target: RedisTarget, redis: redis_py.Redis) -> None:
    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        assert await recorder.subscriber.subscribe(["c", "end"], timeout_s=WAIT_S)
        recorder.subscriber.unsubscribe(["c"])
        redis.publish("c", "1")
        await wait_until(lambda: recorder.messages)
        recorder.subscriber.unsubscribe(["c"])
        await wait_until(lambda: redis.pubsub_numsub("c") == [(b"c", 0)])
        redis.publish("c", "2")
        redis.publish("end", "")
        await wait_until(lambda: len(recorder.messages) == 2)

        assert recorder.messages == [("c", b"1"), ("end", b"")]

    run(target, act)


def test_resubscribing_to_a_channel_is_confirmed_by_its_own_reply(target: RedisTarget, redis: redis_py.Redis) -> None:
    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["other"], timeout_s=WAIT_S)
        first = asyncio.ensure_future(recorder.subscriber.subscribe(["c"], timeout_s=0.2))
        await asyncio.sleep(0)
        recorder.subscriber.unsubscribe(["c"])
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        await first
        redis.publish("c", "1")
        await wait_until(lambda: recorder.messages == [("c", b"1")])

    run(target, act)


def test_a_thousand_coroutines_subscribe_at_once(target: RedisTarget, redis: redis_py.Redis) -> None:
    names = [f"c{i}" for i in range(1000)]

    async def act(recorder: Recorder) -> None:
        asyncio.get_running_loop().slow_callback_duration = MASS_CALLBACK_S
        subscriptions = [recorder.subscriber.subscribe([name], timeout_s=WAIT_S) for name in names]
        assert await asyncio.gather(*subscriptions) == [True] * len(names)
        with redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.publish(name, name)
            pipeline.execute()
        await wait_until(lambda: len(recorder.messages) == len(names))

        assert {channel for channel, _ in recorder.messages} == set(names)

    run(target, act)


def test_after_a_lost_connection_all_is_subscribed_to_again_and_the_gap_is_reported(
    target: RedisTarget, redis: redis_py.Redis
) -> None:
    async def act(recorder: Recorder) -> None:
        asyncio.get_running_loop().slow_callback_duration = MASS_CALLBACK_S
        assert await recorder.subscriber.subscribe([f"c{i}" for i in range(1200)], timeout_s=WAIT_S)

        redis.client_kill_filter(_type="pubsub")

        await wait_until(lambda: recorder.gaps)
        assert redis.publish("c0", "again") == redis.publish("c1199", "again") == 1
        await wait_until(lambda: len(recorder.messages) == 2)
        assert recorder.gaps == 1

    run(target, act)


def test_a_subscription_made_while_redis_is_away_begins_when_it_is_back(own_server: ValkeyServer) -> None:
    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        own_server.kill()
        await asyncio.sleep(0)
        assert not await recorder.subscriber.subscribe(["d", "left"], timeout_s=0.2)
        recorder.subscriber.unsubscribe(["left"])

        await asyncio.to_thread(own_server.start)

        await wait_until(lambda: recorder.gaps)
        with own_server.client() as client:
            assert client.pubsub_numsub("left") == [(b"left", 0)]
            client.publish("d", "back")
        await wait_until(lambda: recorder.messages == [("d", b"back")])

    run(target_of(own_server), act)


def test_a_subscriber_that_is_refused_its_channels_tries_again_until_it_may(
    own_server: ValkeyServer, own_client: redis_py.Redis
) -> None:
    own_client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    target = RedisTarget(addresses=(("127.0.0.1", own_server.port),), username="deaf", password="secret")

    def count_refusals() -> int:
        return sum(int(entry["count"]) for entry in own_client.acl_log())

    async def act(recorder: Recorder) -> None:
        assert not await recorder.subscriber.subscribe(["c"], timeout_s=0)
        await wait_until(lambda: count_refusals() >= 3)

        own_client.execute_command("ACL", "SETUSER", "deaf", "allchannels")

        await wait_until(lambda: recorder.gaps)

    run(target, act)


def test_a_connection_that_went_silent_is_replaced(
    monkeypatch: pytest.MonkeyPatch, own_server: ValkeyServer, own_client: redis_py.Redis
) -> None:
    monkeypatch.setattr(pubsub, "PING_AFTER_S", 0.1)
    monkeypatch.setattr(pubsub, "SILENCE_TIMEOUT_S", 0.4)

    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        assert own_server.process is not None
        with paused(own_server.process.pid):
            async with asyncio.timeout(WAIT_S):
                while await recorder.subscriber.subscribe(["c"], timeout_s=0.05):
                    await asyncio.sleep(0.01)
            gaps = recorder.gaps  # a busy machine may have made one before
            monkeypatch.setattr(pubsub, "SILENCE_TIMEOUT_S", 2 * WAIT_S)

        await wait_until(lambda: recorder.gaps > gaps)
        own_client.publish("c", "again")
        await wait_until(lambda: recorder.messages == [("c", b"again")])

    run(target_of(own_server), act)


def test_a_quiet_connection_is_kept(target: RedisTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "PING_AFTER_S", 600.0)
    monkeypatch.setattr(pubsub, "SILENCE_TIMEOUT_S", 6000.0)
    received: list[bytes] = []
    receive = AsyncConnection.data_received

    def count(self: AsyncConnection, data: bytes) -> None:
        receive(self, data)
        received.append(data)

    monkeypatch.setattr(AsyncConnection, "data_received", count)

    async def act(loop: SteppedLoop) -> None:
        recorder = Recorder(target)
        await recorder.subscriber.start()
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)
        for _ in range(20):  # twice as long as silence may last
            received.clear()
            await loop.step(610)
            await wait_until(lambda: received)  # the reply to a ping, not only that the server has sent it
        gaps = recorder.gaps
        await recorder.subscriber.close()
        assert not gaps

    run_in_steps(act)


def test_closing_ends_the_connection(target: RedisTarget, redis: redis_py.Redis) -> None:
    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)

    run(target, act)

    eventually(lambda: redis.pubsub_numsub("c") == [(b"c", 0)])


def test_a_subscriber_follows_sentinel_to_the_new_master(sentinel_set: SentinelSet) -> None:
    addresses = (("127.0.0.1", sentinel_set.sentinel.port),)

    async def act(recorder: Recorder) -> None:
        assert await recorder.subscriber.subscribe(["c"], timeout_s=WAIT_S)

        sentinel_set.kill_master()

        await wait_until(lambda: recorder.gaps, timeout_s=60)
        with sentinel_set.replica.client() as client:
            client.publish("c", "new")
        await wait_until(lambda: recorder.messages == [("c", b"new")])

    run(RedisTarget(mode="sentinel", addresses=addresses, master_name=MASTER_NAME), act)

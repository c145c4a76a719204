"""What one connection on an event loop does with requests, replies and silence."""

import asyncio
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.connection import async_node
from runqy.broker.connection.async_connection import AsyncConnection
from runqy.broker.connection.async_connector import Connector
from runqy.broker.connection.async_node import AsyncNode
from runqy.broker.constants import LARGE_BYTES
from runqy.broker.request import Request
from runqy.broker.scripts import JOINED_BYTES, Script, Value, command, pack, pack_pieces
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.reader import read_states
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerBusy, BrokerRefused, BrokerUnavailable, OutcomeUnknown
from tests.broker.test_clock import HOUR_S
from tests.support import environment, event_loop
from tests.support.bad_network import BadNetwork, FaultMode
from tests.support.event_loop import SteppedLoop, run_in_steps, run_with_broker, wait_until
from tests.support.fake_redis import FakeRedis
from tests.support.servers import ValkeyServer, free_port
from tests.support.tasks import QUEUE, new_task

pytestmark = pytest.mark.slow


def echo(text: str | bytes, **options: Any) -> Request[bytes]:
    """Return a request whose reply is its argument."""
    return Request((command("ECHO", text, key=None),), lambda replies: replies[0], **options)


def append(key: str, **options: Any) -> Request[bytes]:
    return Request((command("APPEND", key, "x", key=key),), lambda replies: replies[0], **options)


def bulk(data: bytes) -> bytes:
    """Return data as Redis sends it."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def reply_with_argument(received: list[bytes]) -> bytes:
    return bulk(received[1])


@pytest.fixture
def target(redis: redis_py.Redis) -> RedisTarget:
    return RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))


@pytest.fixture
def network(redis: redis_py.Redis) -> Iterator[BadNetwork]:
    """Return a network between the broker and the tests' own server."""
    network = BadNetwork(environment.SERVER.port, random.Random(1))
    yield network
    network.close()


def through(network: BadNetwork) -> RedisTarget:
    return RedisTarget(addresses=(("127.0.0.1", network.port),))


def test_requests_of_one_turn_of_the_loop_go_out_in_one_write() -> None:
    async def act(broker: AsyncBroker) -> None:
        await broker.send(echo("connect"))
        before = server.count_writes()

        replies = await asyncio.gather(*(broker.send(echo(str(i))) for i in range(200)))

        assert replies == [b"%d" % i for i in range(200)]
        assert server.count_writes() == before + 1

    with FakeRedis(reply_with_argument) as server:
        run_with_broker(server.target, act)


def test_large_and_bulky_requests_use_a_connection_of_their_own(redis: redis_py.Redis, target: RedisTarget) -> None:
    identity = Request((command("CLIENT", "ID", key=None),), lambda replies: replies[0])
    bulky = Request(identity.commands, identity.parse, is_bulky=True)
    large = Request((*identity.commands, command("ECHO", "x" * 70_000, key=None)), identity.parse)

    async def act(broker: AsyncBroker) -> list[int]:
        return [await broker.send(request) for request in (identity, bulky, large, identity)]

    small, second, third, again = run_with_broker(target, act)

    assert small == again
    assert second == third != small


def test_a_caller_that_is_cancelled_abandons_only_its_own_reply() -> None:
    async def act(broker: AsyncBroker) -> None:
        await broker.send(echo("connect"))
        server.may_read.clear()
        tasks = [asyncio.ensure_future(broker.send(echo(f"{i}"))) for i in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await broker.send(echo("too late"))
        last = asyncio.ensure_future(broker.send(echo("last")))
        await asyncio.sleep(0)
        server.may_read.set()

        assert await asyncio.gather(*tasks[1::2]) == [b"1", b"3", b"5", b"7", b"9"]
        assert await last == b"last"
        assert all(task.cancelled() for task in tasks[::2])
        assert len(server.connections) == 1

    with FakeRedis(reply_with_argument) as server:
        run_with_broker(server.target, act)


def test_reads_and_repeatable_writes_are_sent_again_after_a_lost_connection() -> None:
    def hang_up_at_first(received: list[bytes]) -> bytes | None:
        if server.commands.count(received) == 1:
            return None
        return bulk(received[1])

    async def act(broker: AsyncBroker) -> None:
        read, write, repeatable = echo("read"), append("write"), append("repeatable", is_repeatable=True)
        results = asyncio.gather(*(broker.send(each) for each in (read, write, repeatable)), return_exceptions=True)
        await wait_until(lambda: len(server.commands) == 3)
        server.drop()

        read_reply, error, write_reply = await results
        assert (read_reply, write_reply) == (b"read", b"repeatable")
        assert isinstance(error, OutcomeUnknown)
        assert sorted(c[1] for c in server.commands) == [b"read", b"read", b"repeatable", b"repeatable", b"write"]

    with FakeRedis(hang_up_at_first) as server:
        run_with_broker(server.target, act)


def test_a_request_is_sent_again_only_once() -> None:
    async def act(broker: AsyncBroker) -> None:
        running = asyncio.ensure_future(broker.send(echo("x")))
        for count in (1, 2):
            await wait_until(lambda count=count: len(server.commands) == count)
            server.drop()

        with pytest.raises(BrokerUnavailable):
            await running
        assert len(server.commands) == 2

    with FakeRedis(lambda _: None) as server:
        run_with_broker(server.target, act)


async def connect(broker: AsyncBroker) -> None:
    """Connect, however long it takes."""
    async with asyncio.timeout(60):
        while True:
            try:
                await broker.send(echo("connect"))
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


def test_a_redis_that_does_not_reply_loses_its_connection_soon() -> None:
    async def act(broker: AsyncBroker) -> float:
        await connect(broker)
        started_s = time.monotonic()
        results = await asyncio.gather(*(broker.send(append("silence")) for _ in range(200)), return_exceptions=True)
        assert [type(result) for result in results] == [OutcomeUnknown] * 200
        return time.monotonic() - started_s

    with FakeRedis(lambda received: None if received[1] == b"silence" else bulk(received[1])) as server:
        took_s = run_with_broker(server.target, act, reply_timeout_s=0.4)

    assert 0.4 <= took_s < 200 * 0.4, "they waited one after another"


@pytest.mark.parametrize("size", [1, 200_000], ids=["small", "large"])
def test_new_requests_do_not_keep_the_connection_of_a_redis_that_does_not_reply(size: int) -> None:
    async def act(broker: AsyncBroker) -> None:
        await connect(broker)
        await broker.send(echo("connect", is_bulky=True))
        requests = [asyncio.ensure_future(broker.send(echo("x" * size))) for _ in range(2)]
        async with asyncio.timeout(60):
            while not requests[0].done():
                await asyncio.sleep(0.02)
                requests.append(asyncio.ensure_future(broker.send(echo("x" * size))))
        results = await asyncio.gather(*requests, return_exceptions=True)

        assert isinstance(results[0], BrokerUnavailable)

    with FakeRedis(lambda received: None if received[1][:1] == b"x" else bulk(received[1])) as server:
        run_with_broker(server.target, act, reply_timeout_s=0.4)


CHECK_S = 100.0
"""How long a connection with SILENCE_S waits between two looks whether something came; the ninth without anything is
one too many.
"""
SILENCE_S = 8 * CHECK_S


def reply_when_allowed(may_reply: threading.Semaphore) -> Callable[[list[bytes]], bytes]:
    def reply(received: list[bytes]) -> bytes:
        may_reply.acquire()
        return bulk(received[1])

    return reply


def test_a_redis_that_replies_to_some_keeps_its_connection() -> None:
    may_reply = threading.Semaphore(0)

    async def act(loop: SteppedLoop) -> None:
        broker = AsyncBroker.connect(server.target, reply_timeout_s=SILENCE_S)
        running = [asyncio.ensure_future(broker.send(echo(str(i)))) for i in range(4)]
        for index, request in enumerate(running):
            await wait_until(lambda index=index: len(server.commands) > index)
            for _ in range(5):
                await loop.step(CHECK_S)
            may_reply.release()
            assert await request == b"%d" % index
        assert len(server.connections) == 1
        await broker.close()

    with FakeRedis(reply_when_allowed(may_reply)) as server:
        run_in_steps(act)


def test_a_blocked_loop_does_not_treat_redis_as_silent() -> None:
    may_reply = threading.Semaphore(0)

    async def act(loop: SteppedLoop) -> None:
        broker = AsyncBroker.connect(server.target, reply_timeout_s=SILENCE_S)
        running = asyncio.ensure_future(broker.send(echo("x")))
        await wait_until(lambda: server.commands)

        await loop.step(10 * SILENCE_S)

        may_reply.release()
        assert await running == b"x"
        assert len(server.connections) == 1
        await broker.close()

    with FakeRedis(reply_when_allowed(may_reply)) as server:
        run_in_steps(act)


def test_requests_fail_at_once_after_a_connection_was_refused() -> None:
    async def act(broker: AsyncBroker) -> None:
        async with asyncio.timeout(30):
            for _ in range(1000):
                with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                    await broker.send(echo("x"))

    run_with_broker(RedisTarget(addresses=(("127.0.0.1", free_port()),)), act)


def test_a_redis_that_accepts_and_never_replies_is_unavailable_after_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(async_node, "CONNECT_WAIT_S", 0.2)

    async def act(broker: AsyncBroker) -> None:
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(broker.send(echo("x")) for _ in range(50)), return_exceptions=True)
            assert {type(result) for result in results} == {BrokerUnavailable}
            with pytest.raises(BrokerUnavailable, match="takes too long"):
                await broker.send(echo("x"))

    with FakeRedis(reply_with_argument) as server:
        server.may_read.clear()
        run_with_broker(server.target, act, reply_timeout_s=120, connect_timeout_s=120)


def test_a_connection_that_stays_silent_does_not_delay_the_next() -> None:
    """A black hole may keep what it accepted, so that only a connection opened after it is of use."""

    async def act(broker: AsyncBroker) -> None:
        running = asyncio.ensure_future(broker.send(echo("x")))
        await wait_until(lambda: server.connections)
        server.ignored = list(server.connections)
        server.may_read.set()
        await asyncio.gather(running, return_exceptions=True)
        await connect(broker)

    with FakeRedis(reply_with_argument) as server:
        server.may_read.clear()
        run_with_broker(server.target, act, reply_timeout_s=120, connect_timeout_s=120)


def test_redis_is_used_again_soon_after_its_restart(own_server: ValkeyServer) -> None:
    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(echo("x")) == b"x"
        own_server.kill()
        with pytest.raises(BrokerUnavailable):
            await broker.send(echo("x"))
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await broker.send(echo("y")) == b"y"
                except BrokerUnavailable:
                    await asyncio.sleep(0.01)
                else:
                    break

    run_with_broker(RedisTarget(addresses=(("127.0.0.1", own_server.port),)), act)


@pytest.mark.parametrize("other", ["bulk", "large"])
def test_a_connection_that_is_back_brings_back_the_others(
    target: RedisTarget, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_bulky, sent = other == "bulk", command("ECHO", "x" if other == "bulk" else "x" * (LARGE_BYTES + 1), key=None)
    connector = Connector(target)

    async def act() -> None:
        may_open = [asyncio.Event() for _ in range(2)]
        openers = iter(may_open)
        is_away = True

        async def open_connection() -> AsyncConnection:
            if is_away:
                raise BrokerUnavailable
            await next(openers).wait()
            return await connector.open()

        async def settle() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        node = AsyncNode(open_connection, max_pending=10)
        monkeypatch.setattr(async_node, "reconnect_delay_s", lambda _: HOUR_S)
        (refused,) = await node.execute([sent], is_bulky=is_bulky)
        assert isinstance(refused, BrokerUnavailable)
        is_away = False
        may_open[0].set()
        await node.execute([command("PING", key=None)], is_bulky=False)
        waiting = asyncio.create_task(node.execute([sent], is_bulky=is_bulky))
        await settle()
        assert not waiting.done()
        may_open[1].set()
        assert await waiting == [sent.args[1].encode()]
        await node.close()

    asyncio.run(act())


def test_an_attempt_that_opens_a_connection_after_a_faster_one_closes_it(
    target: RedisTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, late = Connector(target), []

    async def act() -> None:
        async def open_connection() -> AsyncConnection:
            opened = await connector.open()
            if not late:
                late.append(opened)
                with suppress(asyncio.CancelledError):  # it is open when it is told to stop
                    await asyncio.Event().wait()
            return opened

        node = AsyncNode(open_connection, max_pending=10)
        monkeypatch.setattr(async_node, "RECONNECT_MAX_S", 0.01)

        await node.execute([command("PING", key=None)], is_bulky=False)

        await wait_until(lambda: not late[0].is_open)
        await node.close()

    asyncio.run(act())


def test_no_more_than_a_bound_of_requests_is_in_flight() -> None:
    async def act(broker: AsyncBroker) -> None:
        await broker.send(echo("connect"))
        server.may_read.clear()
        running = [asyncio.ensure_future(broker.send(echo(str(i)))) for i in range(25)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.may_read.set()
        results = await asyncio.gather(*running, return_exceptions=True)

        assert results[:20] == [b"%d" % i for i in range(20)]
        assert [type(result) for result in results[20:]] == [BrokerBusy] * 5
        assert await broker.send(echo("free again")) == b"free again"

    with FakeRedis(reply_with_argument) as server:
        run_with_broker(server.target, act, max_pending=20)


def test_no_more_than_a_bound_of_requests_waits_for_the_connection() -> None:
    async def act(broker: AsyncBroker) -> None:
        running = [asyncio.ensure_future(broker.send(echo(str(i)))) for i in range(25)]
        results = await asyncio.gather(*running, return_exceptions=True)

        assert [type(result) for result in results].count(BrokerBusy) == 5

    with FakeRedis(reply_with_argument) as server:
        run_with_broker(server.target, act, max_pending=20)


def test_no_more_than_a_bound_of_large_requests_waits_for_its_turn() -> None:
    async def act(broker: AsyncBroker) -> None:
        server.may_read.clear()
        running = [asyncio.ensure_future(broker.send(echo(b"%d" % i * LARGE_BYTES))) for i in range(5)]
        await asyncio.sleep(0)
        server.may_read.set()
        results = await asyncio.gather(*running, return_exceptions=True)

        assert [type(result) for result in results] == [bytes, bytes, bytes, BrokerBusy, BrokerBusy]
        assert len(await broker.send(echo(b"x" * LARGE_BYTES))) == LARGE_BYTES

    with FakeRedis(reply_with_argument) as server:
        run_with_broker(server.target, act, max_pending=2)


def test_a_large_request_whose_caller_is_cancelled_keeps_its_turn() -> None:
    """Redis still has it, and may be silent for as long as it takes."""

    async def act(broker: AsyncBroker) -> None:
        await connect(broker)
        cancelled = asyncio.ensure_future(broker.send(echo("1" * LARGE_BYTES)))
        await wait_until(lambda: b"1" in received)
        cancelled.cancel()
        following = asyncio.ensure_future(broker.send(echo("2" * LARGE_BYTES)))
        for _ in range(50):
            await broker.send(echo("small"))
        assert received == [b"1"]

        server.drop()
        assert len(await following) == LARGE_BYTES

    received: list[bytes] = []

    def reply(words: list[bytes]) -> bytes | None:
        if len(words[1]) == LARGE_BYTES:
            received.append(words[1][:1])
        return None if words[1][:1] == b"1" else bulk(words[1])

    with FakeRedis(reply) as server:
        run_with_broker(server.target, act, reply_timeout_s=60)


def test_requests_fail_at_once_while_a_server_that_was_silent_is_tried_again() -> None:
    async def act(broker: AsyncBroker) -> None:
        await connect(broker)
        server.may_read.clear()
        with pytest.raises(OutcomeUnknown, match="it does not reply"):
            await broker.send(append("silence"))

        following = asyncio.ensure_future(broker.send(echo("x")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert following.done()
        with pytest.raises(BrokerUnavailable, match="it does not reply"):
            await following
        server.may_read.set()
        await connect(broker)

    with FakeRedis(lambda received: None if received[0] == b"APPEND" else bulk(received[1])) as server:
        run_with_broker(server.target, act, reply_timeout_s=0.2)


def test_a_retired_connection_is_closed_after_its_last_reply(redis: redis_py.Redis, target: RedisTarget) -> None:
    async def act() -> None:
        node = AsyncNode(Connector(target).open, max_pending=10)
        (client_id,) = await node.execute([command("CLIENT", "ID", key=None)], is_bulky=False)
        read = asyncio.create_task(node.execute([command("BLPOP", "nothing", "0", key="nothing")], is_bulky=False))
        await wait_until(lambda: is_blocked(client_id))

        node.retire()
        assert is_blocked(client_id)
        redis.rpush("nothing", "something")

        assert await read == [[b"nothing", b"something"]]
        await wait_until(lambda: not find_client(client_id))

    def find_client(client_id: int) -> list[dict[str, str]]:
        return redis.client_list(client_id=[str(client_id)])

    def is_blocked(client_id: int) -> bool:
        return [client["cmd"] for client in find_client(client_id)] == ["blpop"]

    asyncio.run(act())


def test_a_script_that_cannot_be_loaded_again_fails_only_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lost its scripts, and its role as a master, and cannot be reached again."""
    call = Script("forgotten", "-- KEYS key\nreturn 1")(key="k")
    plain, refused = append("plain"), append("refused")

    async def act(broker: AsyncBroker) -> None:
        await connect(broker)
        monkeypatch.setattr(async_node, "CONNECT_WAIT_S", 0.0)
        server.may_read.clear()  # from the next connection
        requests = [plain, refused, Request((call,), list), Request((*plain.commands, call), list)]
        outcomes = await broker.send_all(requests)

        assert outcomes[0] == b"plain"
        assert [type(outcome) for outcome in outcomes[1:]] == [BrokerUnavailable, BrokerUnavailable, OutcomeUnknown]

    def reply(received: list[bytes]) -> bytes:
        if received[0] == b"EVALSHA":
            return b"-NOSCRIPT No matching script.\r\n"
        return b"-READONLY It is a replica.\r\n" if received[1] == b"refused" else bulk(received[1])

    with FakeRedis(reply) as server:
        run_with_broker(server.target, act)


def test_large_payloads_wait_until_the_network_takes_them() -> None:
    size, count = 1_900_000, 12

    async def act(broker: AsyncBroker) -> None:
        await broker.send(echo("x", is_bulky=True))
        server.may_read.clear()
        tracemalloc.start()
        running = [asyncio.ensure_future(broker.send(echo(b"%02d" % i * (size // 2)))) for i in range(count)]
        await asyncio.sleep(0.2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.2 * size * count  # the arguments, but no copy of them
        server.may_read.set()

        assert [len(reply) for reply in await asyncio.gather(*running)] == [size] * count
        assert [c[1][:2] for c in server.commands[1:]] == [b"%02d" % i for i in range(count)]

    with FakeRedis(reply_with_argument) as server:
        run_with_broker(server.target, act, reply_timeout_s=60)


@pytest.mark.parametrize("large", [[], [0], [2], [1, 2], [0, 1, 2, 3]])
def test_large_arguments_are_encoded_as_small_ones(large: list[int]) -> None:
    args: list[Value] = [b"SET", "\u00fc", 12, b"\r\n\xff"]
    for position in large:
        args[position] = b"%d" % position * (3 * JOINED_BYTES + position)

    assert b"".join(pack_pieces((*args,))) == pack((*args,))


def test_a_request_that_takes_long_to_arrive_does_not_count_as_silence() -> None:
    size = 2_000_000

    async def act(loop: SteppedLoop) -> None:
        broker = AsyncBroker.connect(server.target, reply_timeout_s=SILENCE_S)
        await broker.send(echo("connect", is_bulky=True))
        running = asyncio.ensure_future(broker.send(echo("x" * size)))
        while (received_bytes := server.received_bytes) < size // 2:
            await wait_until(lambda before=received_bytes: server.received_bytes > before)
            await loop.step(2 * CHECK_S)
        assert len(await running) == size
        assert len(server.connections) == 1
        await broker.close()

    with FakeRedis(reply_with_argument, read_pause_s=0.01) as server:
        run_in_steps(act)


def test_a_server_that_closes_its_side_and_stops_reading_delays_no_request() -> None:
    write = Request((command("APPEND", "k", bytes(20_000_000), key="k"),), len)  # a write is not sent again

    async def act(broker: AsyncBroker) -> float:
        await broker.send(echo("x" * (LARGE_BYTES + 1)))
        server.may_read.clear()
        large = asyncio.ensure_future(broker.send(write))
        await asyncio.to_thread(server.connections[-1].recv, 1, socket.MSG_PEEK)
        server.connections[-1].shutdown(socket.SHUT_WR)
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await large
        return time.monotonic() - began_s

    with FakeRedis(reply_with_argument, read_pause_s=0.01) as server:
        took_s = run_with_broker(server.target, act, reply_timeout_s=120)

    assert took_s < 60, f"the request failed after {took_s:.1f} s"


def test_replies_that_come_in_pieces_are_put_together(network: BadNetwork) -> None:
    network.mode = FaultMode.IN_PIECES

    async def act(broker: AsyncBroker) -> list[bytes]:
        return await asyncio.gather(*(broker.send(echo(f"number {i}")) for i in range(200)))

    assert run_with_broker(through(network), act) == [b"number %d" % i for i in range(200)]


def test_no_task_is_lost_or_doubled_by_a_network_that_loses_replies(network: BadNetwork, redis: redis_py.Redis) -> None:
    network.mode = FaultMode.LOSES_RESPONSES
    names = [f"t{i}" for i in range(300)]

    async def enqueue_until_done(broker: AsyncBroker, name: str) -> TaskState:
        request = enqueue(new_task(name), now_ns=broker.now_ns(), is_cluster=False)
        while True:
            try:
                return await broker.send(request)
            except BrokerUnavailable:
                await asyncio.sleep(0.01)

    async def act(broker: AsyncBroker) -> list[TaskState | None]:
        for start in range(0, len(names), 20):
            await asyncio.gather(*(enqueue_until_done(broker, name) for name in names[start : start + 20]))
        network.mode = FaultMode.FINE
        return await broker.send(read_states([(QUEUE, name) for name in names]))

    assert run_with_broker(through(network), act) == [TaskState.PENDING] * len(names)
    assert redis.llen(f"asynq:{{{QUEUE}}}:pending") == len(names)


def test_unexpected_and_invalid_replies_end_the_connection() -> None:
    def reply_too_much(received: list[bytes]) -> bytes:
        if received[1] == b"garbled":
            return b"?what\r\n"
        return bulk(received[1]) * (2 if received[1] == b"double" else 1)

    async def act(broker: AsyncBroker) -> None:
        assert await broker.send(echo("double")) == b"double"
        assert await broker.send(echo("fine")) == b"fine"
        with pytest.raises(BrokerUnavailable, match="an invalid reply"):
            await broker.send(echo("garbled"))
        assert await broker.send(echo("fine")) == b"fine"

    with FakeRedis(reply_too_much) as server:
        run_with_broker(server.target, act)


def test_wrong_credentials_are_refused_and_right_ones_reach_the_database(
    own_server: ValkeyServer,
) -> None:
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", ">other")
    addresses = (("127.0.0.1", own_server.port),)

    async def act(broker: AsyncBroker) -> bytes:
        info = Request((command("CLIENT", "INFO", key=None),), lambda replies: replies[0])
        return await broker.send(info)

    found = run_with_broker(RedisTarget(addresses=addresses, username="worker", password="secret", db=3), act)
    assert b" user=worker" in found
    assert b" db=3" in found
    for password in ("wrong", ""):
        with pytest.raises(BrokerRefused):
            run_with_broker(RedisTarget(addresses=addresses, password=password), act)


def test_closing_fails_what_is_pending() -> None:
    async def main() -> None:
        broker = AsyncBroker.connect(server.target)
        running = asyncio.ensure_future(broker.send(echo("x")))
        await wait_until(lambda: server.commands)
        await broker.close()
        with pytest.raises(BrokerUnavailable):
            await running
        with pytest.raises(BrokerUnavailable):
            await broker.send(echo("x"))

    with FakeRedis(lambda _: None) as server:
        event_loop.run(main())

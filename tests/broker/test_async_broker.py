"""Requests on an event loop have the same outcomes as on a thread."""

import asyncio
import time
import uuid
from typing import Any

import pytest
import redis as redis_py
import uvloop

from runqy import clock
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import Script, command
from runqy.broker.states import TaskState
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import FinishOutcome, complete
from runqy.broker.tasks.reader import find_task, read_states
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import (
    BrokerCommandRefused,
    BrokerFull,
    BrokerRefused,
    BrokerUnavailable,
    RunqyError,
    TaskAlreadyExists,
    TaskNotFound,
)
from tests.broker.test_clock import HOUR_S, TOLERANCE_S
from tests.support import environment
from tests.support.event_loop import run_with_broker
from tests.support.fake_redis import FakeRedis
from tests.support.servers import free_port
from tests.support.tasks import QUEUE, ids, listed, new_task, put


@pytest.fixture(params=["single", pytest.param("cluster", marks=pytest.mark.cluster)])
def target(request: pytest.FixtureRequest) -> RedisTarget:
    """Return where the Redis of the fixture `broker` is."""
    if request.param == "cluster":
        return request.getfixturevalue("cluster_target")
    return RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))


@pytest.fixture
def broker(target: RedisTarget, request: pytest.FixtureRequest) -> Broker:
    """Return a broker with blocking I/O on the same Redis, which starts empty."""
    return request.getfixturevalue(f"{target.mode}_broker")


def get(key: str) -> Request[bytes | None]:
    return Request((command("GET", key, key=key),), lambda replies: replies[0])


def set_to(key: str, value: str) -> Request[bytes]:
    return Request((command("SET", key, value, key=key),), lambda replies: replies[0])


def test_requests_of_many_coroutines_get_their_own_replies(broker: Broker, target: RedisTarget) -> None:
    async def act(on_loop: AsyncBroker) -> list[bytes | None]:
        await asyncio.gather(*(on_loop.send(set_to(f"k{i}", str(i))) for i in range(100)))
        return await asyncio.gather(*(on_loop.send(get(f"k{i}")) for i in range(100)))

    assert run_with_broker(target, act) == [str(i).encode() for i in range(100)]


def test_replies_of_one_request_come_in_the_order_of_its_commands(broker: Broker, target: RedisTarget) -> None:
    keys = [f"k{i}" for i in range(50)]
    everything = Request(
        tuple(c for key in keys for c in (command("SET", key, key, key=key), command("GET", key, key=key))),
        list,
    )

    async def act(on_loop: AsyncBroker) -> list[bytes]:
        return await on_loop.send(everything)

    assert run_with_broker(target, act) == [reply for key in keys for reply in (b"OK", key.encode())]


def test_operations_have_the_outcomes_that_they_have_on_a_thread(broker: Broker, target: RedisTarget) -> None:
    put(broker, "old")

    async def act(on_loop: AsyncBroker) -> tuple[Any, ...]:
        new = await on_loop.send(enqueue(new_task("t1"), now_ns=on_loop.now_ns(), is_cluster=on_loop.is_cluster))
        batch = await enqueue_many(on_loop, [new_task("t2"), new_task("old"), new_task("t3")])
        record = await find_task(on_loop, "t2")
        states = await on_loop.send(read_states([(QUEUE, "t3"), (QUEUE, "gone")]))
        return new, batch, record, states

    new, (second, refused, third), found, states = run_with_broker(target, act)

    assert {new, second, third} == {TaskState.PENDING}
    assert isinstance(refused, TaskAlreadyExists)
    assert found == broker.run(find_task(broker, "t2"))
    assert states == [TaskState.PENDING, None]
    assert listed(broker) == {"pending": ["old", "t1", "t2", "t3"]}


def test_tasks_of_several_queues_are_taken_and_finished(broker: Broker, target: RedisTarget) -> None:
    put(broker, "a1", "a2", queue="a")
    put(broker, "b1", queue="b")

    async def act(on_loop: AsyncBroker) -> tuple[list[str], list[FinishOutcome]]:
        order = plan_dequeue([QueueWeight(queue="a"), QueueWeight(queue="b")], 5, worker_id="w1")
        taken, _ = await dequeue_tasks(on_loop, order, now_ns=on_loop.now_ns())
        ends = [complete(one.lease, one.message, b"1", now_ns=on_loop.now_ns()) for one in taken]
        return ids(taken), await on_loop.send_all(ends)

    taken, outcomes = run_with_broker(target, act)

    assert sorted(taken) == ["a1", "a2", "b1"]
    assert outcomes == [FinishOutcome.COMPLETED] * 3


def test_errors_are_raised_or_returned_as_the_outcome_of_their_request(broker: Broker, target: RedisTarget) -> None:
    async def act(on_loop: AsyncBroker) -> list[Any]:
        with pytest.raises(TaskNotFound):
            await find_task(on_loop, "gone", [QUEUE])
        push = Request((command("LPUSH", "text", "x", key="text"),), lambda replies: replies[0])
        with pytest.raises(BrokerCommandRefused, match="WRONGTYPE"):
            await run_both(on_loop, set_to("text", "1"), push)
        return await on_loop.send_all([set_to("text", "1"), push, get("text"), get("other")])

    done, refused, text, other = run_with_broker(target, act)

    assert (done, text, other) == (b"OK", b"1", None)
    assert isinstance(refused, BrokerCommandRefused)


async def run_both(broker: AnyBroker, first: Request[Any], second: Request[Any]) -> Any:
    """Run two requests; an error of the second is raised at its yield."""
    await broker.send(first)
    return await broker.send(second)


def test_an_error_is_thrown_into_the_operation_that_may_handle_it(broker: Broker, target: RedisTarget) -> None:
    put(broker, "t1")

    async def enqueue_or_read(broker: AnyBroker) -> str:
        now_ns = broker.now_ns()
        try:
            await broker.send(enqueue(new_task("t1"), now_ns=now_ns + 1, is_cluster=broker.is_cluster))
        except TaskAlreadyExists:
            record = await find_task(broker, "t1")
            return record.id
        return ""

    async def act(on_loop: AsyncBroker) -> str:
        return await enqueue_or_read(on_loop)

    assert run_with_broker(target, act) == "t1"


def test_scripts_that_redis_forgot_are_loaded_and_run_once(broker: Broker, target: RedisTarget) -> None:
    count = Script("count", "-- Count.\n-- KEYS key\nreturn redis.call('INCR', KEYS[1])")
    flush = tuple(command("SCRIPT", "FLUSH", key=f"k{i}") for i in range(20))
    counts = Request(tuple(count(key=f"k{i}") for i in range(20)), list)

    async def act(on_loop: AsyncBroker) -> list[int]:
        await on_loop.send(counts)
        await on_loop.send(Request(flush, lambda _: None))
        return await on_loop.send(counts)

    assert run_with_broker(target, act) == [2] * 20


def test_commands_run_in_order_although_redis_knows_only_the_script_of_the_last(
    redis: redis_py.Redis, target: RedisTarget
) -> None:
    name = f"steps:{uuid.uuid4()}"  # a script that no other test has loaded
    first = Script("first", f"-- {name}\n-- KEYS key\nreturn redis.call('RPUSH', KEYS[1], 'first')")
    last = Script("last", "-- Last.\n-- KEYS key\nreturn redis.call('RPUSH', KEYS[1], 'last')")
    redis.script_load(last.source)
    steps = Request((first(key=name), last(key=name), command("LRANGE", name, 0, -1, key=name)), list)

    async def act(on_loop: AsyncBroker) -> list[Any]:
        return await on_loop.send(steps)

    assert run_with_broker(target, act) == [1, 2, [b"first", b"last"]]


def test_an_empty_request_makes_no_round_trip() -> None:
    nowhere = RedisTarget(addresses=(("127.0.0.1", free_port()),))

    async def act(on_loop: AsyncBroker) -> tuple[Any, ...]:
        return await on_loop.send(read_states([])), await on_loop.send_all([]), await enqueue_many(on_loop, [])

    assert run_with_broker(nowhere, act) == ([], [], [])


def test_a_clock_that_is_wrong_is_corrected(
    broker: Broker, target: RedisTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now_ns", lambda: time.time_ns() - HOUR_S * 10**9)

    async def act(on_loop: AsyncBroker) -> tuple[float, float]:
        return await on_loop.measure_clock(), on_loop.now_s() - time.time()

    offset_s, error_s = run_with_broker(target, act)

    assert offset_s == pytest.approx(HOUR_S, abs=TOLERANCE_S)
    assert abs(error_s) < TOLERANCE_S


def test_it_works_on_uvloop(broker: Broker, target: RedisTarget) -> None:
    async def main() -> list[bytes | None]:
        on_loop = AsyncBroker.connect(target)
        await asyncio.gather(*(on_loop.send(set_to(f"k{i}", str(i) * 50_000)) for i in range(20)))
        values = await asyncio.gather(*(on_loop.send(get(f"k{i}")) for i in range(20)))
        await on_loop.close()
        return values

    assert uvloop.run(main()) == [str(i).encode() * 50_000 for i in range(20)]


ERRORS = {
    "ERR something": BrokerCommandRefused,
    "WRONGTYPE Operation against a key holding the wrong kind of value": BrokerCommandRefused,
    "OOM command not allowed when used memory > 'maxmemory'.": BrokerFull,
    "NOAUTH Authentication required.": BrokerRefused,
    "NOPERM this user has no permissions to run the 'echo' command": BrokerRefused,
    "LOADING Redis is loading the dataset in memory": BrokerUnavailable,
    "BUSY Redis is busy running a script.": BrokerUnavailable,
    "MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist on disk.": (
        BrokerUnavailable
    ),
    "NOREPLICAS Not enough good replicas to write.": BrokerUnavailable,
    "READONLY You can't write against a read only replica.": BrokerUnavailable,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": BrokerUnavailable,
    "CLUSTERDOWN The cluster is down": BrokerUnavailable,
    "TRYAGAIN Multiple keys request during rehashing of slot": BrokerUnavailable,
}


@pytest.mark.parametrize("text", ERRORS, ids=lambda text: text.split()[0])
def test_an_error_of_redis_is_raised_as_ours(text: str) -> None:
    echo = Request((command("ECHO", "x", key=None),), lambda replies: replies[0])

    async def act(on_loop: AsyncBroker) -> RunqyError:
        with pytest.raises(RunqyError) as raised:
            await on_loop.send(echo)
        return raised.value

    with FakeRedis(lambda received: f"-{text}\r\n".encode() if received[0] == b"ECHO" else b"+OK\r\n") as server:
        assert type(run_with_broker(server.target, act)) is ERRORS[text]

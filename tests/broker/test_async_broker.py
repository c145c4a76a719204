"""What runs on an event loop has the outcomes of what runs on a thread."""

import asyncio
from typing import Any

import pytest

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.batching import enqueue_many
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.operation import Request
from runqy.broker.producing import enqueue
from runqy.broker.reading import find_task, read_states
from runqy.broker.scripts import command
from runqy.broker.states import TaskState
from runqy.errors import BrokerCommandRefused, TaskAlreadyExists, TaskNotFound
from tests.support import environment
from tests.support.event_loop import run_with_broker
from tests.support.tasks import QUEUE, listed, new_task, put


@pytest.fixture
def target() -> RedisTarget:
    return RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))


def get(key: str) -> Request[bytes | None]:
    return Request((command("GET", key, key=key),), lambda replies: replies[0])


def set_to(key: str, value: str) -> Request[bytes]:
    return Request((command("SET", key, value, key=key),), lambda replies: replies[0])


def test_requests_of_many_coroutines_get_their_own_replies(single_broker: Broker, target: RedisTarget) -> None:
    async def act(broker: AsyncBroker) -> list[bytes | None]:
        await asyncio.gather(*(broker.run(set_to(f"k{i}", str(i))) for i in range(100)))
        return await asyncio.gather(*(broker.run(get(f"k{i}")) for i in range(100)))

    assert run_with_broker(target, act) == [str(i).encode() for i in range(100)]


def test_operations_have_the_outcomes_that_they_have_on_a_thread(single_broker: Broker, target: RedisTarget) -> None:
    put(single_broker, "old")

    async def act(broker: AsyncBroker) -> tuple[Any, ...]:
        new = await broker.run(enqueue(new_task("t1"), now_ns=broker.now_ns(), is_cluster=broker.is_cluster))
        batch = await broker.run(enqueue_many([new_task("t2"), new_task("old"), new_task("t3")]))
        record = await broker.run(find_task("t2"))
        states = await broker.run(read_states([(QUEUE, "t3"), (QUEUE, "gone")]))
        return new, batch, record.id, states

    new, (second, refused, third), found, states = run_with_broker(target, act)

    assert {new, second, third} == {TaskState.PENDING}
    assert isinstance(refused, TaskAlreadyExists)
    assert found == "t2"
    assert states == [TaskState.PENDING, None]
    assert listed(single_broker) == {"pending": ["old", "t1", "t2", "t3"]}


def test_errors_are_raised_or_stand_in_the_place_of_their_request(single_broker: Broker, target: RedisTarget) -> None:
    async def act(broker: AsyncBroker) -> list[Any]:
        with pytest.raises(TaskNotFound):
            await broker.run(find_task("gone"))
        push = Request((command("LPUSH", "text", "x", key="text"),), lambda replies: replies[0])
        return await broker.run_all([set_to("text", "1"), push, get("text")])

    done, refused, text = run_with_broker(target, act)

    assert (done, text) == (b"OK", b"1")
    assert isinstance(refused, BrokerCommandRefused)

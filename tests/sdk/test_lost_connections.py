"""How long clients repeat requests, and which connections they keep."""

import asyncio
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy_sdk.client import (
    AsyncClient,
    Event,
    ServerUnreachable,
    Task,
    TaskFailed,
    WaitTimeout,
    api_errors,
    operations,
)
from runqy_sdk.client.events import EventDecoder
from runqy_sdk.client.models import read_task
from runqy_sdk.client.operations import Call, Operation, Pause, Reply, Retries, advance
from tasks.api import streaming
from tests.support.bad_network import BadNetwork
from tests.support.environment import CLIENT_KEY
from tests.support.tasks import take_one
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import succeed

MANY = 110
"""More requests than a pool of the HTTP library has connections."""
SILENCE = ServerUnreachable("silent")
PENDING = {"info": {"id": "t1", "queue": "simple", "state": "pending"}}


class Clock:
    """The clock of the client's operations, which a test moves."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(operations, "time", clock)
    return clock


@pytest.fixture
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> "Counter[EventDecoder]":
    """Count the heartbeats of each connection. The server sends one a second."""
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 1.0)
    counted: Counter[EventDecoder] = Counter()
    feed = EventDecoder.feed

    def count(self: EventDecoder, data: bytes) -> Iterator[Event]:
        counted[self] += data.count(b": heartbeat")
        return feed(self, data)

    monkeypatch.setattr(EventDecoder, "feed", count)
    return counted


def finish(broker: Broker) -> None:
    succeed(broker, take_one(broker, "simple"), b"1")


def reply(body: object) -> Reply:
    return Reply(200, {}, json.dumps(body).encode())


def fail(operation: Operation[Any], clock: Clock, *, after_s: float) -> None:
    """Let the request that an operation sent last fail, and have it sent again."""
    clock.now_s += after_s
    assert isinstance(advance(operation, SILENCE), Pause)
    assert isinstance(advance(operation), Call)


@pytest.fixture
def network(served_data_plane: str) -> Iterator[BadNetwork]:
    with closing(BadNetwork(int(served_data_plane.rsplit(":", 1)[1]), random.Random(0))) as network:
        yield network


@pytest.mark.usefixtures("client")
def test_events_of_a_silent_task_outlast_the_time_of_retries(
    clock: Clock,
    heartbeats: "Counter[EventDecoder]",
    make: Callable[..., Any],
    network: BadNetwork,
    single_broker: Broker,
) -> None:
    distant = make(f"http://127.0.0.1:{network.port}")
    task = distant.enqueue("simple", 1)

    with ThreadPoolExecutor() as threads:
        events = threads.submit(lambda: list(distant.events(task)))
        for connections in (1, 2, 3):
            wait_until(lambda: events.done() or len(+heartbeats) >= connections)  # noqa: B023 (called at once)
            clock.now_s += 1000
            network.reset()
        finish(single_broker)

        assert events.result()[-1].name == "end"


def test_a_short_timeout_does_not_end_the_connection_of_events(
    client: Any,
    heartbeats: "Counter[EventDecoder]",
    make: Callable[..., Any],
    served_data_plane: str,
    single_broker: Broker,
) -> None:
    task = client.enqueue("simple", 1)
    hasty = make(served_data_plane, timeout=0.3, retry_for=2 * PATIENCE_S)

    with ThreadPoolExecutor() as threads:
        events = threads.submit(lambda: list(hasty.events(task)))
        try:
            wait_until(lambda: max(heartbeats.values(), default=0) > 1)
        finally:
            finish(single_broker)
        assert events.result()[-1].name == "end"


def test_waits_are_repeated_for_a_time_after_the_last_sign_of_life(clock: Clock) -> None:
    operation = operations.wait("t1", None, 60.0)
    advance(operation)

    fail(operation, clock, after_s=60)  # the server was asked to wait for half of this
    fail(operation, clock, after_s=50)
    assert isinstance(advance(operation, reply(PENDING)), Call)
    fail(operation, clock, after_s=1000)
    fail(operation, clock, after_s=50)
    with pytest.raises(ServerUnreachable):
        fail(operation, clock, after_s=20)


def test_a_pause_does_not_outlast_the_wait(clock: Clock) -> None:
    operation = operations.wait("t1", 0.05, 60.0)
    advance(operation)

    pause = advance(operation, SILENCE)

    assert isinstance(pause, Pause)
    assert pause.seconds == 0.05


def test_jobs_have_one_time_for_all_their_retries(clock: Clock) -> None:
    operation = operations.enqueue_chunk("simple", [operations.JobEncoder({}).encode(n) for n in range(2)], 60.0)

    def answer(*codes: str | None) -> None:
        ids = [None if code else "t1" for code in codes]
        body = {"errors": codes, "codes": codes, "task_ids": ids, "existing": []}
        assert isinstance(advance(operation, reply(body)), Pause)
        assert isinstance(advance(operation), Call)

    advance(operation)
    answer("queue_full", "queue_full")
    fail(operation, clock, after_s=50)
    answer(None, "queue_full")  # the time begins anew, since a job was accepted
    fail(operation, clock, after_s=50)
    answer("queue_full")
    with pytest.raises(ServerUnreachable):
        fail(operation, clock, after_s=20)


def test_pauses_grow_and_are_at_least_what_the_server_asks_for(clock: Clock) -> None:
    retries, busy = Retries(1000.0), api_errors.QueueFull("full")
    busy.retry_after = 3.0

    asked = retries.next_pause(busy).seconds
    grown = [retries.next_pause(SILENCE).seconds for _ in range(9)]
    busy.retry_after = 0.01

    assert asked == 3.0
    assert 0.2 <= grown[0] <= 0.4
    assert 5 <= grown[-1] <= 10
    assert retries.next_pause(busy).seconds >= 5


@pytest.mark.usefixtures("client")
def test_waits_leave_connections_to_other_requests(
    served_data_plane: str, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "WAIT_S", 2 * PATIENCE_S)

    async def act() -> list[Task]:
        async with AsyncClient(served_data_plane, CLIENT_KEY, timeout=10) as many:
            task = await many.enqueue("simple", 1)
            waits = [asyncio.ensure_future(many.wait(task)) for _ in range(MANY)]
            await asyncio.sleep(0)  # each has asked for a connection
            assert (await many.get(task.id)).state == "pending"
            assert not any(wait.done() for wait in waits)
            await asyncio.to_thread(finish, single_broker)
            return await asyncio.gather(*waits)

    assert {task.state for task in asyncio.run(act())} == {"completed"}


@pytest.mark.parametrize("lines", [1, 300_000])
def test_a_large_event_is_read_in_small_parts(lines: int) -> None:
    # A decoder that copies what it has for each part, or line, would take many minutes.
    text = "x" * ((16 << 20) // lines)
    value = [text] * lines
    data = (
        b"id: 1\nevent: end\ndata: "
        + json.dumps(value, indent=None if lines == 1 else 0).replace("\n", "\ndata: ").encode()
        + b"\n\n"
    )
    decoder = EventDecoder()

    events = [event for start in range(0, len(data), 512) for event in decoder.feed(data[start : start + 512])]

    assert [(event.id, event.name) for event in events] == [("1", "end")]
    assert events[0].data == value


def test_integers_of_any_length_are_read(client: Any, single_broker: Broker) -> None:
    task = client.enqueue("simple", 1)
    succeed(single_broker, take_one(single_broker, "simple"), b"[%b,-%b]" % (b"9" * 5000, b"9" * 20_000))

    numbers = [10**5000 - 1, 1 - 10**20_000]
    assert client.result(task) == numbers
    assert list(client.events(task))[-1].data["info"]["result"] == numbers


def test_errors_of_a_task_survive_pickling() -> None:
    failed = TaskFailed(read_task({"info": PENDING["info"] | {"error": "boom"}}))
    late = WaitTimeout("t1", 3.0)
    late.add_note("in a pool")

    for error in (failed, late):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (its own)
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))

"""What a task streams, as server-sent events: each chunk once, in order, for clients that come late or again too."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.tasks.chunks import GAP, MAX_READ_BYTES
from runqy.broker.tasks.inspector import run_tasks
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.reader import TaskLocation
from runqy.redis_connection import get_broker
from tasks import waiting
from tasks.api.events import open_event_stream
from tasks.api.streaming import StreamBody
from tasks.queries import get_task, read_task, read_task_chunks
from tasks.waiting import ResultWaiters, WaiterLimits, WaitingClient
from tasks.waiting_loop import BlockingIterator, get_waiting_loop
from tests.api.client import ApiClient
from tests.support.event_loop import run_with_broker
from tests.support.event_loop import wait_until as loop_until
from tests.support.tasks import put, take_one
from tests.tasks.task_helpers import (
    LONG_S,
    Event,
    drop_chunks,
    events_of,
    fail_for_good,
    parse_event,
    run_again,
    stream,
    succeed,
)

PATH = "/queue/t1/events"

Open = Callable[..., Iterator[bytes]]


@pytest.fixture
def open_stream(waiters: ResultWaiters, taken: LeasedTask) -> Iterator[Open]:
    """Return a function that opens a stream of the task's events. The test reads one part after another."""
    opened: list[BlockingIterator] = []
    loop = get_waiting_loop()

    def start(last_event_id: str = "", is_accepted: Callable[[], bool] = lambda: True) -> Iterator[bytes]:
        broker = get_broker()
        record = broker.run(get_task(broker, "t1"))
        client = WaitingClient(id="k", is_accepted=is_accepted)
        found: StreamBody = loop.run(open_event_stream(waiters, record, client=client, last_event_id=last_event_id))
        opened.append(BlockingIterator(loop, found))
        return iter(opened[-1])

    yield start
    for each in opened:
        each.close()


def events_in(part: bytes) -> list[Event]:
    return [parse_event(event + b"\n\n") for event in part.split(b"\n\n")[:-1]]


def briefly(events: list[Event]) -> list[tuple[str, str, Any]]:
    """Return the ids and names of events, and what a chunk or a gap contains."""
    data = [json.loads(event.data) for event in events]
    values = [each.get("chunk", each.get("dropped")) for each in data]
    return [(event.id, event.name, value) for event, value in zip(events, values, strict=True)]


def test_a_client_that_comes_late_gets_every_chunk_before_the_end(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    stream(single_broker, taken, b'"Hel"', b'{"n":\n1}', b"\xff no JSON")
    succeed(single_broker, taken, b'"Hello"')

    found = events_of(client.get(PATH))

    assert briefly(found) == [
        ("1-1-", "chunk", "Hel"),
        ("1-2-", "chunk", {"n": 1}),
        ("1-3-", "chunk", "\ufffd no JSON"),
        ("1-3-completed-1", "end", None),
    ]
    assert json.loads(found[0].data) == {"id": "t1", "queue": "simple", "run": 1, "chunk": "Hel"}


def test_a_chunk_wakes_its_readers_without_a_poll(open_stream: Open, taken: LeasedTask, single_broker: Broker) -> None:
    readers = [open_stream(), open_stream()]
    assert [parse_event(next(reader)).id for reader in readers] == ["1-0-active-1"] * 2

    stream(single_broker, taken, b'"a"')
    first = [next(reader) for reader in readers]
    stream(single_broker, taken, b'"b"', offset=1)
    second = [next(reader) for reader in readers]
    stream(single_broker, taken, b'"c"', offset=2)
    fail_for_good(single_broker, taken, "boom")
    rest = [b"".join(reader) for reader in readers]

    assert [briefly(events_in(part)) for part in first + second] == [
        [("1-1-active-1", "chunk", "a")],
        [("1-1-active-1", "chunk", "a")],
        [("1-2-active-1", "chunk", "b")],
        [("1-2-active-1", "chunk", "b")],
    ]
    end = [("1-3-active-1", "chunk", "c"), ("1-3-archived-1", "end", None)]
    assert [briefly(events_in(part)) for part in rest] == [end, end]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("1-1-active-1", ["chunk 1-2-active-1", "end 1-2-completed-1"]),
        ("1-2-active-1", ["end 1-2-completed-1"]),
        ("1-2-archived-1", ["reset ", "chunk 1-1-", "chunk 1-2-", "end 1-2-completed-1"]),
        ("active-1", ["chunk 1-1-", "chunk 1-2-", "end 1-2-completed-1"]),
        ("1-99999999999999999999-x", ["chunk 1-1-", "chunk 1-2-", "end 1-2-completed-1"]),
        ("7-1-active-1", ["reset ", "chunk 1-1-", "chunk 1-2-", "end 1-2-completed-1"]),
    ],
)
@pytest.mark.usefixtures("waiters")
def test_a_client_that_comes_again_gets_what_it_misses(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, known: str, expected: list[str]
) -> None:
    stream(single_broker, taken, b'"a"', b'"b"')
    succeed(single_broker, taken, b"1")

    found = events_of(client.get(PATH, **{"Last-Event-ID": known}))

    assert [f"{event.name} {event.id}" for event in found] == expected


def test_a_client_that_has_everything_gets_204_until_the_task_runs_again(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    stream(single_broker, taken, b'"a"')
    fail_for_good(single_broker, taken, "boom")
    known = {"Last-Event-ID": events_of(client.get(PATH))[-1].id}
    assert client.get(PATH, **known).status_code == 204

    single_broker.run(run_tasks("simple", ["t1"], now_ns=single_broker.now_ns()))
    again = take_one(single_broker, "simple")
    stream(single_broker, again, b'"b"')
    fail_for_good(single_broker, again, "boom")

    assert [(event.name, event.id) for event in events_of(client.get(PATH, **known))] == [
        ("reset", ""),
        ("chunk", "2-1-"),
        ("end", "2-1-archived-1"),
    ]


def test_a_new_run_resets_what_was_sent(open_stream: Open, taken: LeasedTask, single_broker: Broker) -> None:
    stream(single_broker, taken, b'"a"')
    reader = open_stream()
    seen = [next(reader), next(reader)]

    again = run_again(single_broker, taken)
    stream(single_broker, again, b'"b"')
    while b"2-1-" not in seen[-1]:
        seen.append(next(reader))
    succeed(single_broker, again, b"1")
    seen += reader

    found = [(event.name, event.id) for part in seen for event in events_in(part)]
    assert found[:2] == [("state", "1-0-active-1"), ("chunk", "1-1-active-1")]
    # The states in which the task waited may be missed.
    without_waits = [each for each in found[2:] if "retry" not in each[1] and "pending" not in each[1]]
    assert without_waits == [
        ("reset", ""),
        ("state", "2-0-active-2"),
        ("chunk", "2-1-active-2"),
        ("end", "2-1-completed-2"),
    ]


def test_dropped_chunks_are_one_gap(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    stream(single_broker, taken, b'"a"', GAP, GAP, b'"d"')
    drop_chunks(single_broker, taken, b'"e"', b'"f"', offset=4)
    succeed(single_broker, taken, b"1")

    assert briefly(events_of(client.get(PATH))) == [
        ("1-1-", "chunk", "a"),
        ("", "gap", 2),
        ("1-4-", "chunk", "d"),
        ("", "gap", 2),
        ("1-6-completed-1", "end", None),
    ]


def test_a_reader_that_reads_nothing_costs_one_read_of_a_limited_size(
    open_stream: Open, taken: LeasedTask, single_broker: Broker, redis: redis_py.Redis
) -> None:
    big = b'"%s"' % (b"x" * 60_000)
    for offset in range(0, 60, 10):
        stream(single_broker, taken, *[big] * 10, offset=offset)

    def sent_bytes() -> int:
        return int(redis.info("stats")["total_net_output_bytes"])

    before = sent_bytes()
    reader = open_stream()
    next(reader), next(reader)
    unread = sent_bytes() - before
    succeed(single_broker, taken, b"1")
    chunks = [event for part in reader for event in events_in(part) if event.name == "chunk"]

    assert unread < MAX_READ_BYTES + 100_000
    assert len(chunks) == 58  # two were read before


def test_a_key_that_was_revoked_gets_no_further_chunk(
    open_stream: Open, taken: LeasedTask, single_broker: Broker
) -> None:
    valid = True
    stream(single_broker, taken, *[b'"%s"' % (b"x" * 60_000)] * 10)
    reader = open_stream(is_accepted=lambda: valid)
    next(reader), next(reader)

    valid = False

    assert list(reader) == []


def test_readers_that_a_chunk_wakes_share_one_read(
    single_broker: Broker, configuration: None, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    put(single_broker, "t1", queue="simple", retention_s=3600)
    taken = take_one(single_broker, "simple")
    record = single_broker.run(read_task(single_broker, ("simple", "t1")))
    reads: list[int] = []

    def read(broker: AsyncBroker, location: TaskLocation, *, run: int, offset: int) -> Any:
        reads.append(offset)
        return read_task_chunks(broker, location, run=run, offset=offset)

    async def act(broker: AsyncBroker) -> list[list[bytes]]:
        waiters = ResultWaiters(broker, WaiterLimits(total=50, threads=0))
        client = WaitingClient(id="k")
        streams = [await open_event_stream(waiters, record, client=client, last_event_id="") for _ in range(20)]
        states = [await anext(aiter(each)) for each in streams]
        waits = [asyncio.create_task(anext(aiter(each))) for each in streams]
        await loop_until(lambda: all(waiter.status for waiter in waiters.active))
        reads.clear()
        await asyncio.to_thread(stream, single_broker, taken, b'"a"')
        chunks = await asyncio.gather(*waits)
        for each in streams:
            await each.aclose()
        await waiters.close()
        return [states, chunks]

    monkeypatch.setattr(waiting, "POLL_S", LONG_S)
    monkeypatch.setattr(waiting, "read_task_chunks", read)
    states, chunks = run_with_broker(settings.REDIS_TARGET, act)

    assert {parse_event(part).id for part in states} == {"1-0-active-1"}
    assert {parse_event(part).id for part in chunks} == {"1-1-active-1"}
    assert reads == [0]

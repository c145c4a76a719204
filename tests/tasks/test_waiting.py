"""Readers that wait: when they are called, how many there may be, and what they cost others."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.cancelling import cancel
from runqy.broker.keys import QueueKeys, ended_channel
from runqy.broker.reading import find_task
from runqy.broker.records import TaskRecord
from runqy.errors import TaskNotFound, TooManyWaiters
from tasks import waiting
from tasks.waiting import WaitingRoom
from tests.api.client import Answer, ApiClient, problem
from tests.support.tasks import take_one
from tests.support.waiting import wait_until
from tests.tasks.life import succeed

LONG_S = 30.0


@pytest.fixture
def room(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[WaitingRoom]:
    """Return the process's waiting room, with three seats; nobody looks by himself within a test."""
    monkeypatch.setattr(waiting, "POLL_S", LONG_S)
    before = {*threading.enumerate()}
    made = WaitingRoom(single_broker, 3)
    monkeypatch.setattr(waiting, "_room", made)
    yield made
    made.close()
    wait_until(lambda: not any(thread.name == "runqy-waiting-room" for thread in {*threading.enumerate()} - before))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Return threads for readers."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def task_id(client: ApiClient) -> str:
    """Return the id of a pending task."""
    found: str = json.loads(client.post("/queue/add", {"queue": "simple", "data": {}}).content)["info"]["id"]
    return found


def has_readers(room: WaitingRoom, count: int) -> bool:
    """Tell whether so many readers have taken their first look and wait."""
    return sum(seat.place is not None for seat in tuple(room._seats)) == count  # noqa: SLF001 (a test's look inside)


def info(answer: Answer) -> dict[str, Any]:
    """Return what an answer says about its task."""
    found: dict[str, Any] = json.loads(answer.content)["info"]
    return found


def start_reader(
    threads: ThreadPoolExecutor, client: ApiClient, path: str, room: WaitingRoom, count: int = 1, **headers: str
) -> Future[Answer]:
    """Send a request that waits, and return once `count` of them do."""
    answer = threads.submit(client.get, path, **headers)
    wait_until(lambda: has_readers(room, count))
    return answer


def test_a_reader_is_called_when_its_task_completes(
    client: ApiClient, task_id: str, room: WaitingRoom, threads: ThreadPoolExecutor, single_broker: Broker
) -> None:
    answer = start_reader(threads, client, f"/queue/{task_id}?wait={LONG_S:.0f}", room)

    succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')

    found = answer.result(timeout=5)
    assert found.status_code == 200
    assert (info(found)["state"], info(found)["result"]) == ("completed", {"ok": True})


def test_a_reader_is_called_when_its_task_is_cancelled(
    client: ApiClient, task_id: str, room: WaitingRoom, threads: ThreadPoolExecutor, single_broker: Broker
) -> None:
    answer = start_reader(threads, client, f"/queue/{task_id}", room, Prefer="respond-async, wait=30")

    single_broker.run(cancel("simple", task_id, now_ns=single_broker.now_ns()))

    assert info(answer.result(timeout=5))["state"] == "archived"


def test_an_end_that_nobody_publishes_is_seen_by_looking(
    *,
    client: ApiClient,
    task_id: str,
    threads: ThreadPoolExecutor,
    redis: redis_py.Redis,
    room: WaitingRoom,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    answer = start_reader(threads, client, f"/queue/{task_id}?wait=30", room)

    redis.hset(QueueKeys("simple").task(task_id), "state", "completed")

    assert answer.result(timeout=5).status_code == 200


def test_the_looking_goes_on_after_a_key_that_holds_something_else(
    *,
    client: ApiClient,
    task_id: str,
    threads: ThreadPoolExecutor,
    redis: redis_py.Redis,
    room: WaitingRoom,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    key = QueueKeys("simple").task(task_id)
    answer = start_reader(threads, client, f"/queue/{task_id}?wait=30", room)

    task = redis.hgetall(key)
    redis.set(key, "no task")
    wait_until(lambda: "broker_command_refused" in caplog.text)
    with redis.pipeline() as change:
        change.delete(key)
        change.hset(key, mapping=task | {b"state": b"completed"})
        change.execute()

    assert answer.result(timeout=5).status_code == 200


def test_a_task_that_vanishes_is_not_found(
    *,
    client: ApiClient,
    task_id: str,
    threads: ThreadPoolExecutor,
    redis: redis_py.Redis,
    room: WaitingRoom,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    answer = start_reader(threads, client, f"/queue/{task_id}?wait=30", room)

    redis.delete(QueueKeys("simple").task(task_id))

    assert answer.result(timeout=5).status_code == 404


def test_when_time_is_up_the_task_is_shown_as_it_is(client: ApiClient, task_id: str, room: WaitingRoom) -> None:
    answer = client.get(f"/queue/{task_id}?wait=0.05")

    assert (answer.status_code, info(answer)["state"]) == (202, "pending")


def test_what_is_over_is_answered_at_once_even_when_all_seats_are_taken(
    client: ApiClient, task_id: str, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_room", WaitingRoom(single_broker, 0))
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    answer = client.get(f"/queue/{task_id}?wait=30")

    assert (answer.status_code, info(answer)["result"]) == (200, 1)


def test_one_reader_too_many_is_sent_away(
    client: ApiClient, task_id: str, room: WaitingRoom, threads: ThreadPoolExecutor
) -> None:
    for count in (1, 2, 3):
        start_reader(threads, client, f"/queue/{task_id}?wait=30", room, count)

    answer = client.get(f"/queue/{task_id}?wait=30")

    assert (answer.status_code, problem(answer)["code"]) == (503, "too_many_waiters")
    assert answer["Retry-After"]
    room.close()


def test_a_seat_is_free_again_once_its_reader_left(
    client: ApiClient, task_id: str, room: WaitingRoom, redis: redis_py.Redis
) -> None:
    for _ in range(5):
        assert client.get(f"/queue/{task_id}?wait=0.01").status_code == 202

    assert room._seats == set()  # noqa: SLF001 (a test's look inside)
    wait_until(lambda: not redis.pubsub_channels(ended_channel("*")))


def test_closing_sends_all_readers_away_at_once_with_what_is_known(
    client: ApiClient, task_id: str, room: WaitingRoom, threads: ThreadPoolExecutor
) -> None:
    answers = [start_reader(threads, client, f"/queue/{task_id}?wait=30", room, count) for count in (1, 2, 3)]

    waiting.close_waiting_room()

    assert [answer.result(timeout=LONG_S / 2).status_code for answer in answers] == [202, 202, 202]


def test_whoever_comes_after_closing_does_not_wait(client: ApiClient, task_id: str, room: WaitingRoom) -> None:
    room.close()

    assert client.get(f"/queue/{task_id}?wait=30").status_code == 202


def test_an_end_between_the_first_look_and_the_wait_is_not_missed(
    client: ApiClient, task_id: str, room: WaitingRoom, single_broker: Broker
) -> None:
    looks: list[TaskRecord] = []

    def look() -> TaskRecord:
        looks.append(single_broker.run(find_task(task_id)))
        if len(looks) == 1:
            succeed(single_broker, take_one(single_broker, "simple"), b"1")
        return looks[-1]

    record = room.wait_for_end(task_id, look, longest_s=LONG_S)

    assert record.state.is_final
    assert len(looks) == 2


def test_a_reader_leaves_its_seat_when_reading_fails(room: WaitingRoom) -> None:
    def look() -> TaskRecord:
        raise TaskNotFound

    for _ in range(5):
        with pytest.raises(TaskNotFound):
            room.wait_for_end("unknown", look, longest_s=LONG_S)


def test_a_full_room_refuses(single_broker: Broker) -> None:
    with pytest.raises(TooManyWaiters):
        WaitingRoom(single_broker, 0).wait_for_end("t", lambda: pytest.fail("looked"), longest_s=1)


@pytest.mark.parametrize("wait", ["soon", "-1", "1d", "nan", "1e3"])
def test_a_wait_that_is_no_time_is_refused(client: ApiClient, task_id: str, wait: str) -> None:
    answer = client.get(f"/queue/{task_id}?wait={wait}")

    assert answer.status_code == 400
    assert problem(answer)["errors"][0].startswith("wait: ")

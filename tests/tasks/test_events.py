"""Server-sent events of a task: which are sent, when a stream ends, and what it may cost."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py
from django.test import Client

from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.keys import QueueKeys
from runqy.broker.states import TaskState
from runqy.broker.tasks.finish import Failure, retry
from runqy.redis_connection import get_broker
from tasks import waiting
from tasks.api import streaming
from tasks.api.events import open_event_stream
from tasks.api.streaming import StreamBody
from tasks.queries import get_task
from tasks.waiting import ResultWaiters, WaiterLimits, WaitingClient
from tasks.waiting_loop import BlockingIterator, get_waiting_loop
from tests.api.client import ApiClient, problem
from tests.support.data_plane import comparable
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.support.result_waiters import drain
from tests.support.tasks import take_one
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import Event, events_of, fail_for_good, parse_event, succeed

QUEUE = QueueKeys("simple")


@pytest.fixture
def waiters(waiters: ResultWaiters, monkeypatch: pytest.MonkeyPatch) -> ResultWaiters:
    """Return the process's waiters, which poll often."""
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    return waiters


@pytest.fixture
def task_id(client: ApiClient) -> str:
    """Return the id of a pending task."""
    found: str = json.loads(client.post("/queue/add", {"queue": "simple", "data": {}}).content)["info"]["id"]
    return found


@pytest.fixture
def open_stream(waiters: ResultWaiters, task_id: str) -> Iterator[Callable[..., Iterator[bytes]]]:
    """Return a function that opens a stream of the task's events. The test reads one after another."""
    opened: list[BlockingIterator] = []
    loop = get_waiting_loop()

    def start(last_event_id: str = "", is_accepted: Callable[[], bool] = lambda: True) -> Iterator[bytes]:
        broker = get_broker()
        record = broker.run(get_task(broker, task_id))
        client = WaitingClient(id="k", is_accepted=is_accepted)
        stream: StreamBody = loop.run(open_event_stream(waiters, record, client=client, last_event_id=last_event_id))
        opened.append(BlockingIterator(loop, stream))
        return iter(opened[-1])

    yield start
    for stream in opened:
        stream.close()


def fail_once(broker: Broker) -> None:
    """Let a run of the task fail, to be tried again at once."""
    taken = take_one(broker, "simple")
    failure = Failure(error="boom", retry_at_s=broker.now_s() - 1)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))


def test_an_ended_task_has_one_event_with_its_result(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')

    response = client.get(f"/queue/{task_id}/events")

    assert (response.status_code, response["Content-Type"]) == (200, "text/event-stream")
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-store", "no")
    (event,) = events_of(response)
    assert (event.id, event.name) == ("1-0-completed-1", "end")
    assert json.loads(event.data) == json.loads(client.get(f"/queue/{task_id}").content)


def test_both_planes_send_the_same(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    fail_for_good(single_broker, take_one(single_broker, "simple"), "boom")

    on_plane = client.get(f"/queue/{task_id}/events")
    by_django = Client().get(f"/queue/{task_id}/events", headers={"Authorization": f"Bearer {CLIENT_KEY}"})

    assert comparable(on_plane) == comparable(by_django)


def test_a_stream_continues_until_the_task_ends(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(client.get(f"/queue/{task_id}/events")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        succeed(single_broker, take_one(single_broker, "simple"), b"1")
        found = response.result(timeout=PATIENCE_S)

    assert found[0] == Event(
        "0-0-pending-0", "state", f'{{"id":"{task_id}","queue":"simple","state":"pending","attempts":0}}'
    )
    assert (found[-1].id, found[-1].name) == ("1-0-completed-1", "end")


def test_each_state_is_sent(
    client: ApiClient, open_stream: Callable[..., Iterator[bytes]], single_broker: Broker
) -> None:
    stream = open_stream()
    seen = [next(stream)]

    fail_once(single_broker)
    seen.append(next(stream))
    single_broker.run(forward("simple", TaskState.RETRY, now_ns=single_broker.now_ns()))
    seen.append(next(stream))
    taken = take_one(single_broker, "simple")
    seen.append(next(stream))
    succeed(single_broker, taken, b"1")
    seen += stream

    assert [parse_event(chunk)[:2] for chunk in seen] == [
        ("0-0-pending-0", "state"),
        ("1-0-retry-1", "state"),
        ("1-0-pending-1", "state"),
        ("2-0-active-2", "state"),
        ("2-0-completed-2", "end"),
    ]


def test_another_run_is_sent_although_the_state_is_the_same(
    client: ApiClient,
    task_id: str,
    open_stream: Callable[..., Iterator[bytes]],
    redis: redis_py.Redis,
    single_broker: Broker,
) -> None:
    take_one(single_broker, "simple")
    stream = open_stream()
    assert parse_event(next(stream)).id == "1-0-active-1"

    redis.hset(QUEUE.task(task_id), mapping={"started": single_broker.now_ns(), "retried": 1})

    assert parse_event(next(stream)).id == "1-0-active-2"


def test_the_last_received_state_is_not_sent_again(
    client: ApiClient, open_stream: Callable[..., Iterator[bytes]], single_broker: Broker
) -> None:
    knows, knows_not = open_stream("0-0-pending-0"), open_stream("1-0-active-1")

    assert parse_event(next(knows_not)).id == "0-0-pending-0"
    take_one(single_broker, "simple")
    assert parse_event(next(knows)).id == "1-0-active-1"


def test_a_client_that_received_the_end_gets_204(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    response = client.get(f"/queue/{task_id}/events", **{"Last-Event-ID": "1-0-completed-1"})

    assert (response.status_code, response.content) == (204, b"")


def test_a_task_that_is_deleted_ends_the_stream(
    client: ApiClient, task_id: str, open_stream: Callable[..., Iterator[bytes]], redis: redis_py.Redis
) -> None:
    stream = open_stream()
    next(stream)

    redis.delete(QUEUE.task(task_id))

    assert [parse_event(chunk) for chunk in stream] == [Event("", "gone", f'{{"id":"{task_id}"}}')]


def test_a_result_with_line_breaks_is_one_event(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), b'{\r\n "a": [1,\n2]\r}')

    (event,) = events_of(client.get(f"/queue/{task_id}/events"))

    assert json.loads(event.data)["info"]["result"] == {"a": [1, 2]}


def test_an_idle_stream_sends_comments(
    client: ApiClient, open_stream: Callable[..., Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 0.02)
    stream = open_stream("0-0-pending-0")

    assert [next(stream), next(stream)] == [b": heartbeat\n\n"] * 2


def test_a_stream_ends_soon_after_its_key_is_revoked(
    client: ApiClient, open_stream: Callable[..., Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 600.0)
    valid = True
    stream = open_stream(is_accepted=lambda: valid)
    next(stream)

    valid = False

    assert list(stream) == []


def test_a_revoked_key_sees_no_further_state(
    client: ApiClient, task_id: str, waiters: ResultWaiters, single_broker: Broker
) -> None:
    created = create_api_key(name="shop", role="client")
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(ApiClient(created.plain).get(f"/queue/{task_id}/events")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        revoke_api_key(key_id=created.row.pk)
        take_one(single_broker, "simple")

        assert [event.id for event in response.result(timeout=PATIENCE_S)] == ["0-0-pending-0"]


def test_tasks_of_other_queues_do_not_exist_for_a_limited_key(
    client: ApiClient, task_id: str, waiters: ResultWaiters
) -> None:
    created = create_api_key(name="shop", role="client", queues=["inference"])

    assert problem(ApiClient(created.plain).get(f"/queue/{task_id}/events"))["status"] == 404


def test_draining_ends_streams_at_once(
    client: ApiClient, waiters: ResultWaiters, open_stream: Callable[..., Iterator[bytes]]
) -> None:
    stream = open_stream()
    next(stream)

    drain(waiters)

    assert list(stream) == []
    assert [parse_event(chunk).id for chunk in open_stream()] == ["0-0-pending-0"]


def test_a_stream_that_was_never_read_frees_its_waiter(
    client: ApiClient, waiters: ResultWaiters, open_stream: Callable[..., Any]
) -> None:
    stream = open_stream()
    assert len(waiters.active) == 1

    stream.close()

    assert not waiters.active


def test_a_stream_counts_as_a_waiter(
    client: ApiClient, task_id: str, waiters: ResultWaiters, open_stream: Callable[..., Iterator[bytes]]
) -> None:
    waiters.limits = WaiterLimits(total=1, threads=1)
    open_stream()

    response = client.get(f"/queue/{task_id}/events")

    assert (response.status_code, problem(response)["code"]) == (503, "too_many_waiters")


def test_a_request_for_the_head_opens_no_stream(client: ApiClient, task_id: str, waiters: ResultWaiters) -> None:
    response = Client().head(f"/queue/{task_id}/events", headers={"Authorization": f"Bearer {CLIENT_KEY}"})

    assert (response.status_code, response["Content-Type"], response.content) == (200, "text/event-stream", b"")
    assert not waiters.active


@pytest.mark.parametrize(("key", "status"), [(CLIENT_KEY, 404), (WORKER_KEY, 403), ("wrong", 401), (None, 401)])
def test_errors_of_a_stream_request_are_problems(
    client: ApiClient, waiters: ResultWaiters, key: str | None, status: int
) -> None:
    assert problem(ApiClient(key).get("/queue/unknown/events"))["status"] == status

"""What tasks printed, over HTTP: shown by attempt, and followed until the task ends."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.test import Client

from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.tasks.finish import requeue
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import MAX_BYTES
from tasks import waiting
from tasks.api import streaming
from tasks.waiting import ResultWaiters, WaiterLimits
from tests.api.client import ApiClient, problem
from tests.support.data_plane import comparable
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import Event, events_of, fail_for_good, run_again, say, succeed

PATH = "/api/cli/queues/simple/tasks/t1/logs"


@pytest.fixture
def waiters(waiters: ResultWaiters, monkeypatch: pytest.MonkeyPatch) -> ResultWaiters:
    """Return the process's waiters, which poll often."""
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    return waiters


def logs(client: ApiClient, query: str = "") -> Any:
    response = client.get(PATH + query)
    assert response.status_code == 200, response.content
    return json.loads(response.content)


def outputs(events: list[Event]) -> list[tuple[str, str]]:
    """Return the ids and texts of outputs."""
    return [(event.id, json.loads(event.data)["text"]) for event in events if event.name == "output"]


def test_the_output_of_the_last_attempt_is_shown(client: ApiClient, taken: LeasedTask, single_broker: Broker) -> None:
    say(single_broker, taken, b"first\n")
    say(single_broker, run_again(single_broker, taken), "zwei \u00e4\n".encode(), is_shared=True)

    assert logs(client) == {
        "id": "t1",
        "queue": "simple",
        "attempt": 2,
        "attempts": [1, 2],
        "text": "zwei \u00e4\n",
        "truncated": False,
        "shared": True,
    }
    first = logs(client, "?attempt=1")
    assert (first["attempt"], first["text"], first["shared"]) == (1, "first\n", False)
    assert (logs(client, "?attempt=3")["attempt"], logs(client, "?attempt=3")["text"]) == (3, "")


def test_a_task_that_printed_nothing_has_an_empty_text(client: ApiClient, taken: LeasedTask) -> None:
    found = logs(client)

    assert (found["attempt"], found["attempts"], found["text"]) == (0, [], "")


def test_text_beyond_the_limit_is_truncated(client: ApiClient, taken: LeasedTask, single_broker: Broker) -> None:
    say(single_broker, taken, b"x\n" * MAX_BYTES)

    found = logs(client)

    assert found["truncated"]
    assert len(found["text"]) == MAX_BYTES


def test_invalid_utf_8_is_replaced(client: ApiClient, taken: LeasedTask, single_broker: Broker) -> None:
    say(single_broker, taken, b"a\xffb\n")

    assert logs(client)["text"] == "a\ufffdb\n"


@pytest.mark.parametrize("query", ["?attempt=0", "?attempt=x", "?attempt=99999999999", "?follow=maybe"])
def test_invalid_parameters_are_refused(client: ApiClient, taken: LeasedTask, query: str) -> None:
    assert problem(client.get(PATH + query))["status"] == 400
    assert problem(client.get(f"{PATH}?follow=true&attempt=-1"))["status"] == 400


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        (CLIENT_KEY, PATH.replace("t1", "t2"), 404),
        (CLIENT_KEY, PATH.replace("simple", "unknown"), 404),
        (WORKER_KEY, PATH, 403),
        ("wrong", PATH, 401),
        (None, PATH, 401),
    ],
)
@pytest.mark.usefixtures("client", "taken", "waiters")
def test_errors_are_problems(key: str | None, path: str, status: int) -> None:
    for query in ("", "?follow=true"):
        assert problem(ApiClient(key).get(path + query))["status"] == status


@pytest.mark.parametrize("query", ["", "?follow=true"])
def test_tasks_of_other_queues_do_not_exist_for_a_limited_key(
    client: ApiClient, taken: LeasedTask, waiters: ResultWaiters, query: str
) -> None:
    created = create_api_key(name="shop", role="client", queues=["inference"])

    assert problem(ApiClient(created.plain).get(PATH + query))["status"] == 404


def test_the_output_of_an_ended_task_is_followed_to_its_end(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    say(single_broker, taken, b"first\n")
    again = run_again(single_broker, taken)
    say(single_broker, again, b"second\n")
    succeed(single_broker, again, b"1")

    response = client.get(f"{PATH}?follow=true&attempt=1")
    latest = client.get(f"{PATH}?follow=true")

    assert (response.status_code, response["Content-Type"]) == (200, "text/event-stream")
    events = events_of(response)
    assert outputs(events) == [("1-6", "first\n"), ("2-7", "second\n")]
    assert events[-1] == Event("end", "end", '{"id":"t1","queue":"simple","state":"completed"}')
    assert outputs(events_of(latest)) == [("2-7", "second\n")]


def test_both_planes_send_the_same(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    say(single_broker, taken, b"text\n")
    fail_for_good(single_broker, taken, "boom")
    headers = {"Authorization": f"Bearer {CLIENT_KEY}"}

    for query in ("", "?follow=true", "?attempt=2", "?follow=TRUE&attempt=2"):
        by_django = Client().get(PATH + query, headers=headers)
        assert comparable(client.get(PATH + query)) == comparable(by_django)


def test_output_is_followed_live_over_attempts_until_the_end(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    say(single_broker, taken, b"one\n")
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(client.get(f"{PATH}?follow=true")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        say(single_broker, taken, b"two\n", offset=4)
        again = run_again(single_broker, taken)
        say(single_broker, again, b"three\n")
        succeed(single_broker, again, b"1")
        events = response.result(timeout=PATIENCE_S)

    found = outputs(events)
    assert "".join(text for _, text in found) == "one\ntwo\nthree\n"
    assert (found[0], found[-1]) == (("1-4", "one\n"), ("2-6", "three\n"))
    assert events[-1].name == "end"


def test_a_client_that_reconnects_receives_what_it_lacks(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    say(single_broker, taken, b"one\ntwo\n")
    succeed(single_broker, taken, b"1")

    response = client.get(f"{PATH}?follow=true", **{"Last-Event-ID": "1-4"})
    ended = client.get(f"{PATH}?follow=true", **{"Last-Event-ID": "end"})

    assert outputs(events_of(response)) == [("1-8", "two\n")]
    assert (ended.status_code, ended.content) == (204, b"")


def test_text_that_was_dropped_while_a_client_followed_is_reported(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    say(single_broker, taken, b"one\n")
    say(single_broker, taken, b"x\n" * MAX_BYTES, offset=4)
    succeed(single_broker, taken, b"1")

    (event,) = [
        json.loads(event.data)
        for event in events_of(client.get(f"{PATH}?follow=true", **{"Last-Event-ID": "1-4"}))
        if event.name == "output"
    ]
    assert event["truncated"]


def test_a_task_that_is_deleted_ends_the_stream(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(client.get(f"{PATH}?follow=true")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        single_broker.run(requeue(taken.lease, now_ns=single_broker.now_ns()))
        deleted = client.delete("/api/cli/queues/simple/tasks/t1")

        assert deleted.status_code == 200, deleted.content
        assert response.result(timeout=PATIENCE_S) == [Event("", "gone", '{"id":"t1"}')]


def test_a_stream_ends_when_its_key_is_revoked(
    client: ApiClient, taken: LeasedTask, waiters: ResultWaiters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 600.0)
    created = create_api_key(name="shop", role="client")
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(ApiClient(created.plain).get(f"{PATH}?follow=true")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        revoke_api_key(key_id=created.row.pk)

        assert response.result(timeout=PATIENCE_S) == []


def test_a_revoked_key_sees_no_further_output(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    created = create_api_key(name="shop", role="client")
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(ApiClient(created.plain).get(f"{PATH}?follow=true")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        revoke_api_key(key_id=created.row.pk)
        say(single_broker, taken, b"secret\n")

        assert response.result(timeout=PATIENCE_S) == []


def test_followers_count_as_waiters(client: ApiClient, taken: LeasedTask, waiters: ResultWaiters) -> None:
    waiters.limits = WaiterLimits(total=0, threads=0)

    response = client.get(f"{PATH}?follow=true")

    assert (response.status_code, problem(response)["code"]) == (503, "too_many_waiters")


def test_progress_is_a_member_of_the_task_and_an_event(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters
) -> None:
    before = json.loads(client.get("/queue/t1").content)["info"]["progress"]
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(lambda: events_of(client.get("/queue/t1/events")))
        wait_until(lambda: any(waiter.status for waiter in tuple(waiters.active)))
        say(single_broker, taken, b"", progress=b'{"current":3,"total":10,"message":"resizing"}')
        wait_until(lambda: json.loads(client.get("/queue/t1").content)["info"]["progress"])
        found = json.loads(client.get("/queue/t1").content)["info"]["progress"]
        wait_until(lambda: all(waiter.status and waiter.status.progress for waiter in tuple(waiters.active)))
        succeed(single_broker, taken, b"1")
        events = response.result(timeout=PATIENCE_S)

    assert before is None
    assert found == {"current": 3, "total": 10, "message": "resizing"}
    assert [event.name for event in events] == ["state", "progress", "end"]
    assert json.loads(events[1].data) == {"id": "t1", "queue": "simple", "progress": found}
    assert json.loads(events[2].data)["info"]["progress"] == found

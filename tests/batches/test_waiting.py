"""Clients that wait for a batch or follow its progress, on both planes."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connections

from batches import waiting
from batches.models import Batch
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.core.api_keys import Role
from tasks.waiting import ResultWaiters, WaiterLimits
from tests.api.client import ApiClient, Response, problem
from tests.batches.conftest import Steps, body
from tests.support.environment import CLIENT_KEY
from tests.support.result_waiters import drain, limited_waiters
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import Event, events_of

LONG_S = 120


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    count = 8
    with ThreadPoolExecutor(count) as pool:
        yield pool
        together = Barrier(count)

        def close(_: int) -> None:
            together.wait(PATIENCE_S)  # so that each thread closes its connection
            connections.close_all()

        list(pool.map(close, range(count)))


@pytest.fixture
def waiters(each_plane: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResultWaiters]:
    """Return the process's waiters, which read batches often."""
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    with limited_waiters(monkeypatch, WaiterLimits(total=12, threads=6)) as found:
        yield found


@pytest.fixture
def batch_id(client: ApiClient, steps: Steps) -> str:
    """Return a batch of two tasks that are enqueued."""
    created: str = client.post("/batches", body(2)).json()["id"]
    steps.enqueue()
    return created


def end(steps: Steps) -> None:
    steps.complete(*steps.take(2))
    steps.collect()


def start(threads: ThreadPoolExecutor, path: str, key: str = CLIENT_KEY) -> Future[Response]:
    return threads.submit(lambda: ApiClient(key).get(path))


def have_read(waiters: ResultWaiters, count: int) -> bool:
    """Return whether so many clients wait, and those that follow have got the first event."""
    active = tuple(waiters.active)
    return len(active) == count and all(waiter.batch and (waiter.status or not waiter.follows) for waiter in active)


def read_events(batch_id: str, key: str = CLIENT_KEY) -> list[Event]:
    return events_of(ApiClient(key).get(f"/batches/{batch_id}/events"))


def test_a_client_gets_the_batch_when_it_has_ended(
    steps: Steps, batch_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    asked = start(threads, f"/batches/{batch_id}?wait={LONG_S}&limit=1")
    wait_until(lambda: have_read(waiters, 1))
    end(steps)

    response = asked.result()

    shown = response.json()
    assert (response.status_code, shown["counts"]["completed"]) == (200, 2)
    assert [member["state"] for member in shown["members"]] == ["completed"]
    assert "wait" not in shown["next"]
    assert ApiClient(CLIENT_KEY).get(f"/batches/{batch_id}?wait={LONG_S}").status_code == 200


@pytest.mark.parametrize("ended_by", ["time", "drain"])
def test_a_batch_that_has_not_ended_is_answered_with_202(
    batch_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor, ended_by: str
) -> None:
    asked = start(threads, f"/batches/{batch_id}?wait={0.1 if ended_by == 'time' else 999}")
    if ended_by == "drain":
        wait_until(lambda: have_read(waiters, 1))
        drain(waiters)

    response = asked.result()

    assert (response.status_code, response["Location"]) == (202, f"/batches/{batch_id}")
    assert response.get("Preference-Applied") == (None if ended_by == "time" else "wait=300")


def test_clients_that_wait_for_one_batch_share_a_query(
    steps: Steps,
    batch_id: str,
    waiters: ResultWaiters,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[list[str]] = []
    may_read = threading.Semaphore(0)
    read = waiting._read  # noqa: SLF001 (counted, and called)

    def counted(ids: list[str]) -> dict[str, Batch]:
        reads.append(list(ids))
        assert may_read.acquire(timeout=PATIENCE_S)
        return read(ids)

    monkeypatch.setattr(waiting, "_read", counted)
    asked = [start(threads, f"/batches/{batch_id}?wait={LONG_S}") for _ in range(6)]
    wait_until(lambda: len(waiters.active) == 6)
    may_read.release()
    wait_until(lambda: have_read(waiters, 6))
    wait_until(lambda: len(reads) == 2)  # the first poll is held, and is the only one
    end(steps)
    may_read.release(100)

    assert [each.result().status_code for each in asked] == [200] * 6
    assert all(ids == [batch_id] for ids in reads)


def test_clients_learn_that_a_read_failed_unexpectedly_and_the_next_ones_are_read_again(
    steps: Steps,
    batch_id: str,
    waiters: ResultWaiters,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_fail, read = threading.Event(), waiting._read  # noqa: SLF001 (fails once, then is called)

    def read_or_fail(ids: list[str]) -> dict[str, Batch]:
        if may_fail.is_set():
            may_fail.clear()
            raise ZeroDivisionError
        return read(ids)

    monkeypatch.setattr(waiting, "_read", read_or_fail)
    waited = start(threads, f"/batches/{batch_id}?wait={LONG_S}")
    followed = threads.submit(lambda: read_events(batch_id))
    wait_until(lambda: have_read(waiters, 2))
    may_fail.set()
    failed, events = waited.result(), followed.result()
    again = start(threads, f"/batches/{batch_id}?wait={LONG_S}")
    wait_until(lambda: have_read(waiters, 1))
    end(steps)

    assert (failed.status_code, problem(failed)["code"]) == (500, "internal")
    assert [event.name for event in events] == ["progress"]  # its client connects again
    assert again.result().status_code == 200


def test_a_client_follows_the_counts_until_the_end(
    steps: Steps, batch_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    followed = threads.submit(lambda: read_events(batch_id))
    wait_until(lambda: have_read(waiters, 1))
    steps.complete(*steps.take(1))
    steps.collect()
    wait_until(lambda: any(waiter.status[0] == {"enqueued": 1, "completed": 1} for waiter in tuple(waiters.active)))
    steps.fail(*steps.take(1))
    steps.collect()

    events = followed.result()

    assert [event.name for event in events] == ["progress", "progress", "end"]
    data: list[dict[str, Any]] = [json.loads(event.data) for event in events]
    assert [found["counts"]["enqueued"] for found in data] == [2, 1, 0]
    assert (data[-1]["id"], data[-1]["counts"]["archived"]) == (batch_id, 1)
    assert events[-1].id == "end"
    again = ApiClient(CLIENT_KEY).get(f"/batches/{batch_id}/events", **{"Last-Event-ID": "end"})
    assert again.status_code == 204
    assert [event.name for event in read_events(batch_id)] == ["end"]


def test_a_deleted_batch_and_a_revoked_key_end_the_wait(
    steps: Steps, batch_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    key = create_api_key(name="gone", role=Role.CLIENT)
    revoked = start(threads, f"/batches/{batch_id}?wait={LONG_S}", key.plain)
    cut = threads.submit(lambda: read_events(batch_id, key.plain))
    wait_until(lambda: have_read(waiters, 2))
    revoke_api_key(key_id=key.row.pk)
    assert revoked.result().status_code == 401
    assert [event.name for event in cut.result()] == ["progress"]

    waited = start(threads, f"/batches/{batch_id}?wait={LONG_S}")
    followed = threads.submit(lambda: read_events(batch_id))
    wait_until(lambda: have_read(waiters, 2))
    Batch.objects.filter(pk=batch_id).delete()
    assert problem(waited.result())["code"] == "batch_not_found"
    assert [event.name for event in followed.result()] == ["progress", "gone"]


def test_a_batch_that_gets_other_queues_is_hidden_from_a_key_limited_to_queues(
    client: ApiClient, steps: Steps, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    maker, other = (create_api_key(name=n, role=Role.CLIENT, queues=["work"]).plain for n in ("a", "b"))
    open_id = ApiClient(maker).post("/batches", {"name": "empty"}).json()["id"]
    for path in (f"/batches/{open_id}/events", f"/batches/{open_id}?wait={LONG_S}", "/batches/0-0/events"):
        assert ApiClient(other).get(path).status_code == 404
    waited = start(threads, f"/batches/{open_id}?wait={LONG_S}", maker)
    wait_until(lambda: have_read(waiters, 1))

    client.post(f"/batches/{open_id}/add", {"queue": "other", "jobs": [{}]})

    assert waited.result().status_code == 404


def test_the_waiters_of_a_process_are_limited(
    batch_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "limits", WaiterLimits(total=2, threads=2))
    first = start(threads, f"/batches/{batch_id}?wait={LONG_S}")  # a key may have half of them
    wait_until(lambda: have_read(waiters, 1))

    for path in (f"/batches/{batch_id}?wait={LONG_S}", f"/batches/{batch_id}/events"):
        refused = ApiClient(CLIENT_KEY).get(path)
        assert (refused.status_code, problem(refused)["code"]) == (503, "too_many_waiters")
    drain(waiters)
    assert json.loads(first.result().content)["ended_at"] is None

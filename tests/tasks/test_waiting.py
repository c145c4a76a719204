"""Clients that wait for results: what ends a wait, how many may wait, and what they cost others."""

import asyncio
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import redis as redis_py

from queues.queries import get_fresh_catalog
from runqy.accounts.identities import PublishedKey, find_identity
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, ended_channel
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.record import TaskRecord
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import configuration_change
from runqy.configuration.snapshot import get_snapshot
from runqy.core.concurrency import event_loop
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import KeyRequired, TaskNotFound
from tasks import waiting
from tasks.api.calls import waiting_client
from tasks.waiting import ResultWaiters, WaiterLimits, WaitingClient
from tasks.waiting_loop import get_waiting_loop, waiter_limits
from tests.api import planes
from tests.api.client import ApiClient, Response, problem
from tests.support.data_plane import DataPlane
from tests.support.environment import ADMIN_KEY
from tests.support.event_loop import run_with_broker
from tests.support.event_loop import wait_until as loop_until
from tests.support.redis_client import redis_of
from tests.support.result_waiters import drain, limited_waiters
from tests.support.tasks import put, take_one
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import succeed

pytestmark = pytest.mark.slow

LONG_S = 120.0
"""A wait that reaches this limit has failed the test long before."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Return threads for clients."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def waiters(each_plane: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResultWaiters]:
    """Return the process's waiters. One key may have three; no task is polled within a test.

    The waits that a test leaves are ended.
    """
    monkeypatch.setattr(waiting, "POLL_S", LONG_S)
    with limited_waiters(monkeypatch, WaiterLimits(total=6, threads=3)) as found:
        yield found


@pytest.fixture
def task_id(client: ApiClient) -> str:
    """Return the id of a pending task."""
    found: str = json.loads(client.post("/queue/add", {"queue": "simple", "data": {}}).content)["info"]["id"]
    return found


def waiting_count(waiters: ResultWaiters) -> int:
    """Return how many clients wait for a task that they have read."""
    return sum(waiter.status is not None for waiter in tuple(waiters.active))


def info(response: Response) -> dict[str, Any]:
    """Return the task in a response."""
    found: dict[str, Any] = json.loads(response.content)["info"]
    return found


def start_wait(
    threads: ThreadPoolExecutor, client: ApiClient, path: str, waiters: ResultWaiters, count: int = 1, **headers: str
) -> Future[Response]:
    """Send a request that waits, and return once `count` of them do."""
    response = threads.submit(client.get, path, **headers)
    wait_until(lambda: waiting_count(waiters) == count)
    return response


def test_a_client_gets_the_result_when_its_task_completes(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor, single_broker: Broker
) -> None:
    response = start_wait(threads, client, f"/queue/{task_id}?wait={LONG_S:.0f}", waiters)

    succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')

    found = response.result(timeout=PATIENCE_S)
    assert found.status_code == 200
    assert (info(found)["state"], info(found)["result"]) == ("completed", {"ok": True})
    assert found.has_header("ETag")
    wait_until(lambda: not waiters.active)


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_key_that_was_revoked_during_the_wait_gets_no_result_and_waits_no_longer(
    *,
    client: ApiClient,
    task_id: str,
    waiters: ResultWaiters,
    threads: ThreadPoolExecutor,
    single_broker: Broker,
    settings: Any,
    has_ended: bool,
) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = None  # its rate limit headers would differ
    created = create_api_key(name="shop", role="client")
    response = start_wait(threads, ApiClient(created.plain), f"/queue/{task_id}?wait={LONG_S:.0f}", waiters)

    revoke_api_key(key_id=created.row.pk)
    if has_ended:
        succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')

    assert problem(response.result(timeout=LONG_S / 2))["status"] == 401


def test_a_wait_ends_when_the_queues_of_its_key_are_reduced(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    """No page and no route changes a key; a client with write access to the database can."""
    created = create_api_key(name="shop", role="client", queues=["simple", "off"])
    identity = find_identity(created.plain)
    assert identity is not None
    waiting_for = waiting_client({"Authorization": f"Bearer {created.plain}"}, identity)
    wait = waiters.wait_for_end(task_id, queue="simple", client=waiting_for, timeout_s=LONG_S)
    record = threads.submit(get_waiting_loop().run, wait)
    wait_until(lambda: waiting_count(waiters) == 1)

    narrowed = msgspec.structs.replace(PublishedKey.of(created.row), queues=("off",))
    with configuration_change() as change:
        change.put(DocumentKind.API_KEY, str(created.row.pk), msgspec.json.encode(narrowed))

    with pytest.raises(KeyRequired):
        record.result(timeout=LONG_S / 2)


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_key_that_was_revoked_after_it_enqueued_gets_the_task_without_its_result(
    *,
    client: ApiClient,
    waiters: ResultWaiters,
    threads: ThreadPoolExecutor,
    single_broker: Broker,
    has_ended: bool,
) -> None:
    created = create_api_key(name="shop", role="client")
    body = {"queue": "simple", "data": {}}
    response = threads.submit(ApiClient(created.plain).post, f"/queue/add?wait={LONG_S:.0f}", body)
    wait_until(lambda: waiting_count(waiters) == 1)

    revoke_api_key(key_id=created.row.pk)
    if has_ended:
        succeed(single_broker, take_one(single_broker, "simple"), b'{"ok":true}')

    found = response.result(timeout=LONG_S / 2)
    assert (found.status_code, info(found)["state"], info(found)["result"]) == (202, "pending", None)


def test_a_wait_ends_when_the_task_is_cancelled(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor, single_broker: Broker
) -> None:
    response = start_wait(threads, client, f"/queue/{task_id}", waiters, Prefer="respond-async, wait=120")

    single_broker.run(cancel("simple", task_id, now_ns=single_broker.now_ns()))

    found = response.result(timeout=PATIENCE_S)
    assert (info(found)["state"], found["Preference-Applied"]) == ("archived", "wait=120")


def test_an_end_that_is_not_published_is_found_by_polling(
    *,
    client: ApiClient,
    task_id: str,
    threads: ThreadPoolExecutor,
    redis: redis_py.Redis,
    waiters: ResultWaiters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    response = start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)

    redis.hset(QueueKeys("simple").task(task_id), "state", "completed")

    assert response.result(timeout=PATIENCE_S).status_code == 200


def test_polling_continues_after_a_key_of_a_wrong_type(
    *,
    client: ApiClient,
    task_id: str,
    threads: ThreadPoolExecutor,
    redis: redis_py.Redis,
    waiters: ResultWaiters,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    key = QueueKeys("simple").task(task_id)
    response = start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)

    task = redis.hgetall(key)
    redis.set(key, "no task")
    wait_until(lambda: "broker_command_refused" in caplog.text)
    with redis.pipeline() as change:
        change.delete(key)
        change.hset(key, mapping=task | {b"state": b"completed"})
        change.execute()

    assert response.result(timeout=PATIENCE_S).status_code == 200


def test_a_task_that_is_deleted_meanwhile_is_not_found(
    *,
    client: ApiClient,
    task_id: str,
    threads: ThreadPoolExecutor,
    redis: redis_py.Redis,
    waiters: ResultWaiters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    response = start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)

    redis.delete(QueueKeys("simple").task(task_id))

    assert response.result(timeout=PATIENCE_S).status_code == 404


def test_after_the_timeout_the_task_is_returned_in_its_state(
    client: ApiClient, task_id: str, waiters: ResultWaiters
) -> None:
    response = client.get(f"/queue/{task_id}?wait=0.05")

    assert (response.status_code, info(response)["state"]) == (202, "pending")
    assert response["Location"] == f"/queue/{task_id}"


@pytest.mark.parametrize(("query", "headers"), [("?wait=2h", {}), ("?wait=301", {}), ("", {"Prefer": "wait=7200"})])
def test_a_wait_above_the_limit_is_cut_and_the_response_says_so(
    client: ApiClient, task_id: str, single_broker: Broker, query: str, headers: dict[str, str]
) -> None:
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    response = client.get(f"/queue/{task_id}{query}", **headers)

    assert (response.status_code, response["Preference-Applied"]) == (200, "wait=300")
    assert not client.get(f"/queue/{task_id}?wait=300").has_header("Preference-Applied")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_response_after_a_cut_wait_says_so(
    client: ApiClient, task_id: str, waiters: ResultWaiters, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("tasks.api.calls.MAX_WAIT_S", 1)

    if method == "GET":
        response = client.get(f"/queue/{task_id}?wait=5m")
    else:
        response = client.post("/queue/add?wait=5m", {"queue": "simple", "data": {}})

    assert (response.status_code, response["Preference-Applied"]) == (202, "wait=1")


def test_a_wait_without_a_time_has_the_maximum_time(
    client: ApiClient, task_id: str, single_broker: Broker, threads: ThreadPoolExecutor, waiters: ResultWaiters
) -> None:
    response = start_wait(threads, client, f"/queue/{task_id}?wait=true", waiters)

    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    assert (response.result(timeout=PATIENCE_S).status_code, info(response.result())["result"]) == (200, 1)
    assert response.result()["Preference-Applied"] == "wait=300"


def test_clients_learn_that_a_poll_failed_unexpectedly_and_the_next_ones_are_polled_again(
    *,
    client: ApiClient,
    task_id: str,
    waiters: ResultWaiters,
    threads: ThreadPoolExecutor,
    single_broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_fail, read = threading.Event(), waiting.read_statuses

    def read_or_fail(locations: Any) -> Any:
        if may_fail.is_set():
            may_fail.clear()
            raise ZeroDivisionError
        return read(locations)

    monkeypatch.setattr(waiting, "read_statuses", read_or_fail)
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    waited = start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)
    enqueued = threads.submit(client.post, "/queue/add?wait=120", {"queue": "simple", "data": {}})
    wait_until(lambda: waiting_count(waiters) == 2)
    may_fail.set()
    failed, accepted = waited.result(PATIENCE_S), enqueued.result(PATIENCE_S)
    again = start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)
    redis_of(single_broker).delete(QueueKeys("simple").task(task_id))  # nothing is published

    assert (failed.status_code, problem(failed)["code"]) == (500, "internal")
    assert (accepted.status_code, info(accepted)["state"]) == (202, "pending")  # the task is stored
    assert again.result(PATIENCE_S).status_code == 404


def test_a_client_that_waits_keeps_no_memory_for_its_body(
    threads: ThreadPoolExecutor, queues: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RUNQY_MAX_BODY_SIZE, size, count = 1 << 20, 900_000, 8  # there is room for five
    body, patient = {"queue": "simple", "data": "x" * size}, create_api_key(name="patient", role="client")
    plane = DataPlane()
    monkeypatch.setattr(planes, "data_plane", plane)
    waiters = get_waiting_loop().waiters
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        waits = []
        for number in range(count):
            waits.append(threads.submit(ApiClient(patient.plain).post, "/queue/add?wait=120", body))
            wait_until(lambda number=number: waiting_count(waiters) == number + 1)
        kept = tracemalloc.get_traced_memory()[0] - before
        accepted = ApiClient(ADMIN_KEY).post("/queue/add", body)
        drain(waiters)
        responses = [each.result(PATIENCE_S) for each in waits]
    finally:
        tracemalloc.stop()
        plane.close()

    assert accepted.status_code == 200
    assert [(each.status_code, info(each)["payload"]) for each in responses] == [(202, "x" * size)] * count
    assert kept < count * 1.5 * size  # the test's own


def test_a_client_can_request_not_to_wait(client: ApiClient, task_id: str) -> None:
    assert client.get(f"/queue/{task_id}?wait=false").status_code == 200


def test_an_existing_result_is_returned_even_if_no_client_may_wait(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    waiters.limits = WaiterLimits(total=0, threads=0)
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    response = client.get(f"/queue/{task_id}?wait=120")

    assert (response.status_code, info(response)["result"]) == (200, 1)


def test_one_client_too_many_is_refused(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    waiters.limits = WaiterLimits(total=2, threads=3)
    start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)
    start_wait(threads, ApiClient(ADMIN_KEY), f"/queue/{task_id}?wait=120", waiters, 2)

    response = client.get(f"/queue/{task_id}?wait=120")

    assert (response.status_code, problem(response)["code"]) == (503, "too_many_waiters")
    assert response["Retry-After"]


def test_one_key_may_not_use_all_waiters(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    waiters.limits = WaiterLimits(total=6, threads=6)
    for count in (1, 2, 3):
        start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters, count)

    assert problem(client.get(f"/queue/{task_id}?wait=120"))["code"] == "too_many_waiters"
    assert ApiClient(ADMIN_KEY).get(f"/queue/{task_id}?wait=0.05").status_code == 202


def test_waits_that_hold_threads_have_a_limit_of_their_own(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor, monkeypatch: Any
) -> None:
    monkeypatch.setattr(planes, "data_plane", None)
    waiters.limits = WaiterLimits(total=6, threads=1)
    start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters)

    assert "RUNQY_DJANGO_THREADS" in problem(client.get(f"/queue/{task_id}?wait=120"))["detail"]


def test_waits_leave_half_of_the_threads_to_others(settings: Any) -> None:
    limits = []
    for settings.RUNQY_DJANGO_THREADS in (1, 4, 9, 256):
        limits.append(waiter_limits().threads)

    assert limits == [1, 2, 4, 16]


def test_clients_of_threads_wait_on_the_event_loop_that_runs_operations() -> None:
    async def name_thread() -> str:
        return threading.current_thread().name

    assert get_waiting_loop().run(name_thread()) == event_loop.THREAD_NAME


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of other tests may linger
def test_a_forked_process_has_waiters_of_its_own() -> None:
    own = get_waiting_loop()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(get_waiting_loop() is own).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)

    with os.fdopen(reader) as pipe:
        assert pipe.read() == "False"


def test_a_waiter_is_freed_after_a_wait(
    client: ApiClient, task_id: str, waiters: ResultWaiters, redis: redis_py.Redis
) -> None:
    for _ in range(5):
        assert client.get(f"/queue/{task_id}?wait=0.01").status_code == 202

    assert not waiters.active
    wait_until(lambda: not redis.pubsub_channels(ended_channel("*")))


def test_a_waiter_is_freed_after_an_unknown_task(client: ApiClient, waiters: ResultWaiters) -> None:
    get_fresh_catalog()
    waiting_loop = get_waiting_loop()
    for _ in range(5):
        with pytest.raises(TaskNotFound):
            waiting_loop.run(
                waiters.wait_for_end("unknown", queue="simple", client=WaitingClient(id="k"), timeout_s=LONG_S)
            )

    assert not waiters.active


def test_draining_ends_all_waits_at_once(
    client: ApiClient, task_id: str, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    responses = [start_wait(threads, client, f"/queue/{task_id}?wait=120", waiters, count) for count in (1, 2, 3)]

    drain(waiters)

    assert [response.result(timeout=PATIENCE_S).status_code for response in responses] == [202, 202, 202]


def test_no_client_waits_while_the_process_drains(client: ApiClient, task_id: str, waiters: ResultWaiters) -> None:
    waiters.is_draining = True

    assert client.get(f"/queue/{task_id}?wait=120").status_code == 202
    assert client.post("/queue/add?wait=120", {"queue": "simple", "data": {}}).status_code == 202


def test_an_end_between_the_first_read_and_the_wait_is_not_missed(
    client: ApiClient, task_id: str, single_broker: Broker, waiters: ResultWaiters
) -> None:
    async def act() -> tuple[str, bool, str]:
        waiter = await waiters.add(task_id, queue="simple", client=WaitingClient(id="k"))
        try:
            before = await waiter.read()
            await asyncio.to_thread(lambda: succeed(single_broker, take_one(single_broker, "simple"), b"1"))
            return before.state, await waiter.wait(LONG_S / 2), (await waiter.read()).state
        finally:
            waiter.leave()

    assert get_waiting_loop().run(act()) == ("pending", True, "completed")


@pytest.mark.cluster
def test_a_client_waits_for_a_task_of_a_cluster(
    client: ApiClient, cluster_target: RedisTarget, cluster_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 10)  # a busy machine may cost a connection
    get_snapshot()
    put(cluster_broker, "t1", queue="simple")

    async def act(broker: AsyncBroker) -> TaskRecord:
        waiters = ResultWaiters(broker, WaiterLimits(total=2, threads=0))
        caller = WaitingClient(id="k")
        wait = asyncio.create_task(waiters.wait_for_end("t1", queue="simple", client=caller, timeout_s=LONG_S))
        await loop_until(lambda: waiting_count(waiters))
        await asyncio.to_thread(lambda: succeed(cluster_broker, take_one(cluster_broker, "simple"), b"1"))
        record = await asyncio.wait_for(wait, 30)
        await waiters.close()
        return record

    assert run_with_broker(cluster_target, act).result == b"1"


@pytest.mark.parametrize("wait", ["soon", "-1", "1d", "nan", "1e3"])
def test_an_invalid_duration_is_refused(client: ApiClient, task_id: str, wait: str) -> None:
    response = client.get(f"/queue/{task_id}?wait={wait}")

    assert response.status_code == 400
    assert problem(response)["errors"][0].startswith("wait: ")

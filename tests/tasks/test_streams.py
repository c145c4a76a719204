"""What a run streams, as text or lines of JSON: until the run has succeeded, and with errors where nothing was sent."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.test import Client

from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker.broker import Broker
from runqy.broker.tasks.lease import LeasedTask
from tasks.waiting import ResultWaiters, WaiterLimits
from tests.api.client import ApiClient, Response, problem
from tests.support.environment import CLIENT_KEY, WORKER_KEY
from tests.support.result_waiters import drain
from tests.support.tasks import put, take_one
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.task_helpers import content_of, fail_for_good, run_again, stream, succeed

PATH = "/queue/t1/stream"
TEXT, NDJSON = "text/plain; charset=utf-8", "application/x-ndjson"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Return threads for clients."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def start(threads: ThreadPoolExecutor, client: ApiClient, waiters: ResultWaiters, count: int = 1) -> Future[Response]:
    """Request the stream, and return once `count` clients wait for it."""
    response = threads.submit(client.get, PATH)
    wait_until(lambda: sum(waiter.status is not None for waiter in tuple(waiters.active)) == count)
    return response


@pytest.mark.parametrize(
    ("entries", "accept", "content_type", "content"),
    [
        ([b'"Hel"', b'"lo\\n"', b'{"n":\n1}', b"\xff"], "*/*", TEXT, 'Hello\n{"n": 1}\ufffd'),
        ([b'{"n":\n1}', b'"a"', b"\xff"], "*/*", NDJSON, '{"n": 1}\n"a"\n"\ufffd"\n'),
        ([b'"a"', b'"b"'], NDJSON, NDJSON, '"a"\n"b"\n'),
        ([b"1", b"2"], "text/plain", TEXT, "12"),
        ([], "*/*", TEXT, ""),
    ],
)
@pytest.mark.usefixtures("waiters")
def test_the_stream_of_a_run_that_succeeded_is_complete(  # noqa: PLR0917
    client: ApiClient,
    taken: LeasedTask,
    single_broker: Broker,
    entries: list[bytes],
    accept: str,
    content_type: str,
    content: str,
) -> None:
    if entries:
        stream(single_broker, taken, *entries)
    succeed(single_broker, taken, b"1")

    response = client.get(PATH, Accept=accept)

    assert (response.status_code, response["Content-Type"]) == (200, content_type)
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-store", "no")
    assert content_of(response).decode() == content


def test_a_client_follows_the_next_run_of_a_task_that_waits(
    client: ApiClient, single_broker: Broker, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    put(single_broker, "t1", queue="simple", retention_s=3600)
    first = take_one(single_broker, "simple")
    stream(single_broker, first, b'"of the first run"')
    again = run_again(single_broker, first)
    response = start(threads, client, waiters)

    stream(single_broker, again, b'"a"')
    stream(single_broker, again, b'"b"', offset=1)
    succeed(single_broker, again, b"1")

    assert content_of(response.result(PATIENCE_S)) == b"ab"


def test_a_run_that_fails_before_its_first_chunk_is_an_error(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    response = start(threads, client, waiters)

    fail_for_good(single_broker, taken, "boom")

    for each in (response.result(PATIENCE_S), client.get(PATH)):
        assert (each.status_code, problem(each)["code"]) == (409, "stream_incomplete")


def test_a_key_that_is_revoked_before_the_first_chunk_gets_401(
    client: ApiClient, taken: LeasedTask, waiters: ResultWaiters, threads: ThreadPoolExecutor, settings: Any
) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = None  # its rate limit headers would differ
    created = create_api_key(name="shop", role="client")
    response = start(threads, ApiClient(created.plain), waiters)

    revoke_api_key(key_id=created.row.pk)

    assert problem(response.result(PATIENCE_S))["status"] == 401


def test_a_server_that_drains_before_the_first_chunk_responds_503(
    client: ApiClient, taken: LeasedTask, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    response = start(threads, client, waiters)

    drain(waiters)

    for each in (response.result(PATIENCE_S), client.get(PATH)):
        assert (each.status_code, problem(each)["code"]) == (503, "server_busy")


def test_a_stream_counts_as_a_waiter(
    client: ApiClient, taken: LeasedTask, single_broker: Broker, waiters: ResultWaiters, threads: ThreadPoolExecutor
) -> None:
    waiters.limits = WaiterLimits(total=1, threads=1)
    waits = start(threads, client, waiters)

    refused = client.get(PATH)
    succeed(single_broker, taken, b"1")

    assert (refused.status_code, problem(refused)["code"]) == (503, "too_many_waiters")
    assert content_of(waits.result(PATIENCE_S)) == b""


def test_a_request_for_the_head_waits_for_nothing(client: ApiClient, taken: LeasedTask, waiters: ResultWaiters) -> None:
    response = Client().head(PATH, headers={"Authorization": f"Bearer {CLIENT_KEY}"})

    assert (response.status_code, response["Content-Type"], response.content) == (200, TEXT, b"")
    assert not waiters.active


def test_tasks_of_other_queues_do_not_exist_for_a_limited_key(
    client: ApiClient, taken: LeasedTask, waiters: ResultWaiters
) -> None:
    created = create_api_key(name="shop", role="client", queues=["inference"])

    assert problem(ApiClient(created.plain).get(PATH))["status"] == 404


@pytest.mark.parametrize(("key", "status"), [(CLIENT_KEY, 404), (WORKER_KEY, 403), ("wrong", 401), (None, 401)])
@pytest.mark.usefixtures("client", "waiters")
def test_errors_of_a_request_are_problems(key: str | None, status: int) -> None:
    assert problem(ApiClient(key).get("/queue/unknown/stream"))["status"] == status

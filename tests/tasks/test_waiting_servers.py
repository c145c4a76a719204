"""Clients that wait, and event streams, on real servers: at shutdown, after disconnects, without Redis, and many."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from http.client import HTTPResponse
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, ended_channel
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.environment.process import raise_open_files_limit
from tests.support.database import database_variables
from tests.support.environment import ADMIN_KEY
from tests.support.servers import ValkeyServer
from tests.support.tasks import take, take_one
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.web import WAITERS, WSGI, WebProcess
from tests.tasks.task_helpers import succeed

MANY = 2000

StartWeb = Callable[..., WebProcess]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def enqueue(web: WebProcess) -> str:
    """Queue a task and return its id."""
    status, body = web.send("/queue/add", b'{"queue":"simple","data":{}}')
    assert status == 200
    task_id: str = body["info"]["id"]
    return task_id


def read_event(stream: HTTPResponse) -> dict[str, str]:
    """Return the fields of the next event, passing over comments; empty at the end of the stream."""
    fields: dict[str, str] = {}
    while line := stream.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            return fields
    return {}


def is_waited_for(redis: redis_py.Redis, task_id: str) -> bool:
    """Return whether a server is subscribed to the end of a task."""
    ((_, count),) = redis.pubsub_numsub(ended_channel(task_id))
    return bool(count)


async def wait_with(port: int, path: str) -> int:
    """Send a request that waits and return the status of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode())
    status_line = await reader.readline()
    writer.close()
    return int(status_line.split()[1])


async def wait_with_many(web: WebProcess, redis: redis_py.Redis, while_waiting: Callable[[], None]) -> list[int]:
    """Let MANY clients wait, each for a task of its own; do something once they do, and return their statuses."""
    jobs = json.dumps({"queue": "simple", "jobs": [{}] * MANY}).encode()
    task_ids = web.send("/queue/add-batch", jobs)[1]["task_ids"]
    waits = [asyncio.create_task(wait_with(web.port, f"/queue/{task_id}?wait=300")) for task_id in task_ids]
    try:
        await asyncio.to_thread(wait_until, lambda: len(redis.pubsub_channels(ended_channel("*"))) == MANY, 120)
        await asyncio.to_thread(while_waiting)
        return list(await asyncio.wait_for(asyncio.gather(*waits), 120))
    finally:
        for wait in waits:
            wait.cancel()


def test_at_shutdown_two_thousand_waiting_clients_get_a_response_at_once(
    start_web: StartWeb, redis: redis_py.Redis
) -> None:
    raise_open_files_limit()
    web = start_web(RUNQY_MAX_WAITERS=str(2 * MANY))

    statuses = asyncio.run(wait_with_many(web, redis, lambda: web.process.send_signal(signal.SIGTERM)))

    assert statuses == [202] * MANY
    assert web.process.wait(PATIENCE_S) == 0


def test_tasks_are_queued_and_read_while_many_wait_and_all_get_their_results(
    start_web: StartWeb, redis: redis_py.Redis, single_broker: Broker
) -> None:
    raise_open_files_limit()
    web = start_web(RUNQY_MAX_WAITERS=str(2 * MANY))
    read: list[int] = []

    def work() -> None:
        read.extend(web.send(f"/queue/{enqueue(web)}")[0] for _ in range(50))
        while taken := take(single_broker, 100, "simple"):
            for one in taken:
                succeed(single_broker, one, b"1")

    statuses = asyncio.run(wait_with_many(web, redis, work))

    assert read == [200] * 50
    assert statuses == [200] * MANY


def test_draining_ends_streams_while_the_process_continues(start_web: StartWeb) -> None:
    web = start_web(RUNQY_DRAIN_S="600")
    task_id = enqueue(web)

    with ExitStack() as stack:
        streams = [stack.enter_context(web.stream(f"/queue/{task_id}/events")) for _ in range(WAITERS)]
        assert [read_event(stream)["id"] for stream in streams] == ["0-0-pending-0"] * WAITERS
        web.process.send_signal(signal.SIGTERM)
        rests = [stream.read() for stream in streams]

    assert rests == [b""] * WAITERS
    assert web.send("/livez")[0] == 200


def test_a_client_that_reconnects_gets_new_events(start_web: StartWeb, single_broker: Broker) -> None:
    web = start_web()
    path = f"/queue/{enqueue(web)}/events"
    with web.stream(path) as stream:
        last_id = read_event(stream)["id"]

    taken = take_one(single_broker, "simple")
    with web.stream(path, **{"Last-Event-ID": last_id}) as stream:
        assert read_event(stream)["id"] == "1-0-active-1"
    with web.stream(path, **{"Last-Event-ID": "1-0-active-1"}) as stream:
        succeed(single_broker, taken, b'"done"')
        end = read_event(stream)

    assert (end["id"], end["event"]) == ("1-0-completed-1", "end")
    assert json.loads(end["data"])["info"]["result"] == "done"


def test_clients_that_disconnect_free_their_slots_and_keep_their_tasks(
    start_web: StartWeb, redis: redis_py.Redis
) -> None:
    web = start_web()
    task_id = enqueue(web)
    body = '{"queue":"simple","data":{}}'
    head = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    requests = [
        f"POST /queue/add?wait=300 {head}Content-Length: {len(body)}\r\n\r\n{body}",
        f"GET /queue/{task_id}?wait=300 {head}\r\n",
        f"GET /queue/{task_id}/events {head}\r\n",
        f"GET /api/cli/queues/simple/tasks/{task_id}/logs?follow=true {head}\r\n",
    ]
    sent = (requests * WAITERS)[:WAITERS]
    tasks = 1 + sent.count(requests[0])

    connections = [web.connect(request) for request in sent]
    pending, ended = QueueKeys("simple").pending, ended_channel("*")
    wait_until(lambda: redis.llen(pending) == len(redis.pubsub_channels(ended)) == tasks)
    wait_until(lambda: web.send(f"/queue/{task_id}?wait=0.01")[0] == 503)  # all of them wait
    for connection in connections:
        connection.close()
    wait_until(lambda: not redis.pubsub_channels(ended))

    again = [web.connect(requests[1]) for _ in range(WAITERS - 1)]
    wait_until(lambda: web.send(f"/queue/{task_id}?wait=0.01")[0] == 202)
    assert redis.llen(pending) == tasks
    for connection in again:
        connection.close()


@pytest.fixture
def own_redis() -> Iterator[ValkeyServer]:
    """Return a server that the test may restart, with what it held."""
    server = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.stop()


def test_waits_and_streams_survive_a_restart_of_redis(start_web: StartWeb, own_redis: ValkeyServer) -> None:
    web = start_web(REDIS_URL=own_redis.url, **database_variables())
    followed, awaited = enqueue(web), enqueue(web)

    with ThreadPoolExecutor(1) as pool, web.stream(f"/queue/{followed}/events") as stream:
        response = pool.submit(web.send, f"/queue/{awaited}?wait=300")
        assert read_event(stream)["id"] == "0-0-pending-0"
        wait_until(partial(is_waited_for, own_redis.client(), awaited))
        own_redis.kill()
        wait_until(lambda: web.send(f"/queue/{followed}")[0] == 503)
        own_redis.start()
        broker = Broker(RedisTarget(addresses=(("127.0.0.1", own_redis.port),)))
        for taken in take(broker, 2, "simple"):
            succeed(broker, taken, b"1")
        broker.close()
        found: Any = response.result(PATIENCE_S)
        events = list(iter(lambda: read_event(stream), {}))

    assert (found[0], found[1]["info"]["result"]) == (200, 1)
    assert events[-1]["id"] == "1-0-completed-1"


def test_under_a_plain_wsgi_server_clients_wait_and_follow_on_threads(
    start_web: StartWeb, redis: redis_py.Redis, single_broker: Broker
) -> None:
    web = start_web(WSGI, RUNQY_DJANGO_THREADS="4")  # half of them may wait
    followed, awaited = enqueue(web), enqueue(web)

    with ThreadPoolExecutor(1) as pool, web.stream(f"/queue/{followed}/events") as stream:
        response = pool.submit(web.send, f"/queue/{awaited}?wait=300")
        events = [read_event(stream)]
        wait_until(partial(is_waited_for, redis, awaited))
        status_beyond_the_limit = web.send(f"/queue/{awaited}?wait=0.01")[0]
        both = take(single_broker, 2, "simple")
        events.append(read_event(stream))
        for taken in both:
            succeed(single_broker, taken, b"1")
        events.append(read_event(stream))
        rest, found = stream.read(), response.result(PATIENCE_S)

    assert [event["id"] for event in events] == ["0-0-pending-0", "1-0-active-1", "1-0-completed-1"]
    assert (rest, found[0], found[1]["info"]["result"]) == (b"", 200, 1)
    assert status_beyond_the_limit == 503

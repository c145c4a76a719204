"""Both planes refuse the same requests in the same words while Redis is unavailable, full or silent."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis as redis_py

from tests.faults.producers import ENQUEUE, ENQUEUE_BATCH, KeptConnection, Reply, Send
from tests.faults.servers import StartWeb
from tests.faults.test_redis import stopped
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web import ASGI, WSGI, WebProcess

pytestmark = pytest.mark.fault

Fault = Callable[[ValkeyServer], AbstractContextManager[None]]

UNIQUE: Send = ("POST", "/queue/add", b'{"queue":"simple","data":{},"unique_key":"u"}')
UNKNOWN_QUEUE: Send = ("POST", "/queue/add", b'{"queue":"nowhere","data":{}}')
INVALID: Send = ("POST", "/queue/add", b"{")
READ: Send = ("GET", "/queue/nothing", b"")
WAIT: Send = ("GET", "/queue/nothing?wait=1", b"")
EVENTS: Send = ("GET", "/queue/nothing/events", b"")
SENDS = (ENQUEUE, ENQUEUE_BATCH, UNIQUE, UNKNOWN_QUEUE, INVALID, READ, WAIT, EVENTS)
KEYED = {"Idempotency-Key": "k"}
TRIES = 5
"""How often a busy machine may delay the Redis of one of the two."""


@contextmanager
def away(server: ValkeyServer) -> Iterator[None]:
    """Have no server at all."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def full(server: ValkeyServer) -> Iterator[None]:
    """Have a server that takes no more."""
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


def outcomes(client: KeptConnection) -> list[tuple[int, str, str]]:
    """Return the status, Retry-After and problem of the response to each request, with and without idempotency key."""
    replies = [client.send(*send) for send in SENDS]
    replies += [client.send(*send, **KEYED) for send in (ENQUEUE, ENQUEUE_BATCH)]
    return [(reply.status, reply.headers.get("retry-after", ""), problem(reply)) for reply in replies]


def problem(reply: Reply) -> str:
    """Return the problem that a response is, without what differs between requests; empty: none."""
    members = {name: value for name, value in reply.content.items() if name != "request_id"}
    return json.dumps(members, sort_keys=True) if reply.code else ""


@pytest.fixture
def planes(share_web: StartWeb, valkey: ValkeyServer) -> list[WebProcess]:
    """Return a server with the data plane, and one of Django alone."""
    return [share_web(valkey.url, gunicorn) for gunicorn in (ASGI, WSGI)]


@pytest.mark.parametrize("fault", [away, full, stopped])
def test_both_planes_refuse_the_same_requests(
    planes: list[WebProcess], valkey: ValkeyServer, stored: redis_py.Redis, fault: Fault
) -> None:
    on_loop, on_threads = (KeptConnection(web.port) for web in planes)

    for client in (on_loop, on_threads):  # batches have a connection of their own, which may still be made anew
        wait_until(lambda client=client: client.send(*ENQUEUE_BATCH).status == 200)
    with fault(valkey):
        assert on_loop.send(*ENQUEUE).status == on_threads.send(*ENQUEUE).status == 503
        for _ in range(TRIES):
            seen, expected = outcomes(on_loop), outcomes(on_threads)
            if seen == expected:
                break
    for client in (on_loop, on_threads):
        wait_until(lambda client=client: client.send(*ENQUEUE).status == 200)
        client.close()

    assert seen == expected
    assert (503, "2", "") not in seen
    assert not any(str(valkey.port) in text or "Errno" in text for _, _, text in seen)

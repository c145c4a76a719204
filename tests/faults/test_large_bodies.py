"""Requests and results of tens of megabytes beside small ones: these do not fail, and what is refused did not run."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis as redis_py

from runqy.broker.keys import QueueKeys
from tests.faults.producers import ENQUEUE, QUEUE, KeptConnection, Reply
from tests.faults.servers import StartWeb
from tests.support.servers import ValkeyServer
from tests.support.web import WebProcess

pytestmark = pytest.mark.fault

LARGE_BYTES = 30_000_000
TIMEOUT_S = 150
LARGE = json.dumps({"queue": QUEUE, "data": {"x": "x" * LARGE_BYTES}}).encode()
LARGE_BATCH = json.dumps({"queue": QUEUE, "jobs": [{"data": {"x": "x" * (LARGE_BYTES // 3)}}] * 3}).encode()


@contextmanager
def small_requests(web: WebProcess) -> Iterator[None]:
    """Enqueue small tasks on four threads until the block ends, and check that none fails."""
    is_over = threading.Event()
    replies: list[Reply] = []

    def send() -> None:
        client = KeptConnection(web.port, timeout_s=TIMEOUT_S)
        while not is_over.is_set():
            replies.append(client.send(*ENQUEUE))
        client.close()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert {(reply.status, reply.code) for reply in replies} == {(200, "")}


def send_together(web: WebProcess, method: str, path: str, body: bytes = b"", *, number: int) -> list[Reply]:
    def send(_: int) -> Reply:
        client = KeptConnection(web.port, timeout_s=TIMEOUT_S)
        try:
            return client.send(method, path, body)
        finally:
            client.close()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(send, range(number)))


@pytest.fixture
def web(start_web: StartWeb, valkey: ValkeyServer, stored: redis_py.Redis) -> WebProcess:
    """Return a server whose Redis is emptied first."""
    return start_web(valkey.url)


@pytest.mark.parametrize(("path", "body", "tasks"), [("/queue/add", LARGE, 1), ("/queue/add-batch", LARGE_BATCH, 3)])
def test_large_requests_fail_no_small_ones_and_what_is_refused_did_not_run(
    web: WebProcess, stored: redis_py.Redis, path: str, body: bytes, tasks: int
) -> None:
    with small_requests(web):
        replies = send_together(web, "POST", path, body, number=16)

    refused = [reply for reply in replies if reply.status != 200]
    assert {(reply.status, reply.code) for reply in refused} <= {(503, "server_busy")}
    assert all("retry-after" in reply.headers for reply in refused)
    found: Any = stored.scan_iter(f"{QueueKeys(QUEUE).task_prefix}*", count=1000)
    large = sum(stored.hstrlen(key, "msg") >= LARGE_BYTES // 3 for key in found)
    assert large == tasks * (len(replies) - len(refused)) > 0


def test_large_replies_fail_no_small_requests(web: WebProcess) -> None:
    client = KeptConnection(web.port, timeout_s=TIMEOUT_S)
    (task_id,) = client.send_until_available("POST", "/queue/add", LARGE).ids
    client.close()

    with small_requests(web):
        replies = send_together(web, "GET", f"/queue/{task_id}", number=8)

    assert [reply.status for reply in replies] == [200] * len(replies)

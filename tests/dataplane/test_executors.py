"""Threads for Django: bounded, with a bounded queue, and separate threads for work that must continue."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runqy.core.concurrency.executors import BoundedExecutor, make_reserved_executors
from tests.dataplane.servers import build, parse, receive_all, serve
from tests.support.waiting import wait_until

GET = "GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Blocking:
    """An application that blocks the threads of /slow until it is released."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.running = 0
        self.threads: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.threads.add(threading.current_thread().name)
        if environ["PATH_INFO"] == "/slow":
            self.running += 1
            assert self.may_go_on.wait(60)
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]


def executor(**limits: Any) -> BoundedExecutor:
    """Return an executor with two threads."""
    return BoundedExecutor("test", threads=2, **limits)


def test_requests_queue_for_a_thread_and_are_refused_when_the_queue_is_full() -> None:
    blocking = Blocking()

    with serve(build(blocking, django=executor(queue_size=3, queue_timeout_s=60))) as client:
        connections = [client.connect(GET) for _ in range(5)]
        wait_until(lambda: blocking.running == 2)
        refused = [client.ask(GET) for _ in range(2)]
        blocking.may_go_on.set()
        statuses = [parse(receive_all(connection)).status for connection in connections]

    assert [(reply.status, reply.code, reply.headers["retry-after"]) for reply in refused] == [
        (503, "server_busy", "2"),
        (503, "server_busy", "2"),
    ]
    assert statuses == [200] * 5
    assert len(blocking.threads) == 2


def test_a_request_that_queues_for_too_long_is_refused() -> None:
    blocking = Blocking()

    with serve(build(blocking, django=executor(queue_timeout_s=0.2))) as client:
        connections = [client.connect(GET) for _ in range(2)]
        wait_until(lambda: blocking.running == 2)
        refused = client.ask(GET)
        blocking.may_go_on.set()
        assert [parse(receive_all(connection)).status for connection in connections] == [200, 200]
        wait_until(lambda: client.ask(GET).status == 200)

    assert (refused.status, refused.code) == (503, "server_busy")


@pytest.mark.parametrize("request_line", ["GET /livez", "GET /readyz", "GET /health", "POST /worker/register"])
def test_reserved_paths_are_served_while_all_threads_are_busy(request_line: str) -> None:
    blocking = Blocking()

    with serve(build(blocking, django=executor(queue_size=1, queue_timeout_s=60))) as client:
        taken = [client.connect(GET) for _ in range(3)]
        wait_until(lambda: blocking.running == 2)
        reply = client.ask(f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        blocking.may_go_on.set()
        assert [parse(receive_all(connection)).status for connection in taken] == [200] * 3

    assert reply.status == 200


def test_a_reserved_path_that_blocks_takes_no_thread_of_another() -> None:
    blocking = Blocking()
    reserved = make_reserved_executors({"/slow": 1, "/livez": 1})

    with serve(build(blocking, reserved=reserved)) as client:
        taken = [client.connect(GET) for _ in range(3)]
        wait_until(lambda: blocking.running == 1)
        reply = client.get("/livez")
        blocking.may_go_on.set()
        assert [parse(receive_all(connection)).status for connection in taken] == [200] * 3

    assert reply.status == 200
    assert blocking.threads == {"runqy-reserved_0", "runqy-reserved_1"}


@contextmanager
def no_new_threads() -> Iterator[None]:
    """Let no thread be started: none has room for such a stack."""
    before = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(before)


def test_a_thread_that_cannot_be_started_costs_only_its_request() -> None:
    blocking = Blocking()
    blocking.may_go_on.set()

    with serve(build(blocking, django=executor(queue_timeout_s=0.2))) as client:
        with no_new_threads():
            refused = [client.ask(GET) for _ in range(3)]
        began_late = blocking.running
        replies = [client.ask(GET) for _ in range(3)]

    assert [(reply.status, reply.code) for reply in refused] == [(503, "server_busy")] * 3
    assert [reply.status for reply in replies] == [200] * 3
    assert (began_late, blocking.running) == (0, 3)  # what was refused does not run later


def test_a_thread_is_busy_until_its_function_returns_even_if_the_client_disconnected() -> None:
    blocking = Blocking()

    with serve(build(blocking, django=executor(queue_timeout_s=0.2))) as client:
        connections = [client.connect(GET) for _ in range(2)]
        wait_until(lambda: blocking.running == 2)
        for connection in connections:
            connection.close()
        refused = client.ask(GET)
        blocking.may_go_on.set()

    assert refused.code == "server_busy"

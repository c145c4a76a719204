"""What a WSGI application sees of a request, and how its response is sent."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import pytest

from runqy.server.dataplane.wsgi import COLLECT_MAX_BYTES, PIPE_BYTES
from runqy.server.middleware import QUEUED_AT
from tasks.api.calls import UNTIL_DISCONNECT
from tests.dataplane.servers import Client, QuickProtocol, build, parse, receive_all, receive_until, serve
from tests.support.waiting import wait_until

StartResponse = Callable[..., Any]


def test_the_environ_conforms_to_pep_3333(client: Client) -> None:
    head = "GET /caf%C3%A9/%FF%2F?q=%20&r HTTP/1.1\r\nHost: x:1\r\nContent-Type: text/x\r\nConnection: close\r\n"

    seen = json.loads(client.ask(f"{head}Cookie: a=1\r\nCookie: b=2\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n").body)

    assert seen["REQUEST_METHOD"] == "GET"
    assert seen["SCRIPT_NAME"] == ""
    assert seen["PATH_INFO"].encode("latin-1") == "/café/".encode() + b"\xff/"
    assert seen["QUERY_STRING"] == "q=%20&r"
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("127.0.0.1", str(client.port))
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["CONTENT_TYPE"] == "text/x"
    assert seen["HTTP_HOST"] == "x:1"
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["HTTP_X_TWICE"] == "1,2"


def test_the_application_sees_when_its_request_was_queued_and_no_client_can_say_so() -> None:
    def application(environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "1")])
        return [b"1" if began_s <= environ[QUEUED_AT] <= perf_counter() else b"0"]

    began_s = perf_counter()
    with serve(build(application)) as client:
        reply = client.ask(f"GET / HTTP/1.1\r\nHost: x\r\n{QUEUED_AT}: 1\r\nConnection: close\r\n\r\n")

    assert reply.body == b"1"


def test_a_response_to_head_has_the_length_and_no_body(client: Client) -> None:
    with client.connect("HEAD /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as connection:
        reply = parse(receive_all(connection))

    assert int(reply.headers["content-length"]) > 0
    assert reply.body == b""


class Chunks:
    """A response that produces chunks one by one, and records that it was closed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.given = 0
        self.is_closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.given += 1
            yield chunk

    def close(self) -> None:
        self.is_closed.set()

    def __call__(self, _environ: object, start_response: StartResponse) -> "Chunks":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return self


def test_a_chunk_is_sent_before_the_next_is_produced() -> None:
    may_go_on = threading.Event()

    def make() -> Iterator[bytes]:
        yield b"first"
        assert may_go_on.wait(30)
        yield b"second"

    chunks = Chunks(make())
    with serve(build(chunks)) as client, client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        receive_until(connection, b"first")
        may_go_on.set()
        receive_until(connection, b"second\r\n0\r\n\r\n")

    assert chunks.is_closed.is_set()


def test_a_stream_is_closed_when_its_client_disconnects() -> None:
    ticks = threading.Event()

    def make() -> Iterator[bytes]:
        while not ticks.wait(0.01):
            yield b"tick"

    chunks = Chunks(make())
    with serve(build(chunks)) as client:
        with client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            receive_until(connection, b"tick")
        assert chunks.is_closed.wait(30)


def test_a_stream_whose_request_was_cancelled_before_its_head_is_closed() -> None:
    began, may_go_on = threading.Event(), threading.Event()

    def make() -> Iterator[bytes]:
        began.set()
        assert may_go_on.wait(30)
        while True:
            yield b"x" * PIPE_BYTES

    chunks = Chunks(make())
    with serve(build(chunks)) as client:
        client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert began.wait(30)
        assert client.loop is not None
        for task in client.server.server_state.tasks:  # as uvicorn does when it has stopped for too long
            client.loop.call_soon_threadsafe(task.cancel)
        wait_until(lambda: not client.server.server_state.tasks)
        may_go_on.set()
        assert chunks.is_closed.wait(30)


def test_a_stream_that_nobody_reads_is_closed() -> None:
    is_held, may_go_on = threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        may_go_on.wait(30)

    def make() -> Iterator[bytes]:
        yield b"x" * PIPE_BYTES
        # The next one finds no room. The server learns of the stream only when the thread waits for some.
        threading.Timer(0.05, may_go_on.set).start()
        while True:
            yield b"x"

    def application(environ: dict[str, Any], start_response: StartResponse) -> Chunks:
        assert client.loop is not None
        client.loop.call_soon_threadsafe(hold)
        assert is_held.wait(30)
        return chunks(environ, start_response)

    chunks = Chunks(make())
    with serve(build(application)) as client:
        reply = client.ask("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert chunks.is_closed.wait(30)

    assert reply.status == 200


def test_a_request_that_waits_ends_when_its_client_disconnects() -> None:
    began = threading.Event()

    def application(environ: dict[str, Any], _start_response: object) -> list[bytes]:
        assert client.loop is not None
        waiting = asyncio.run_coroutine_threadsafe(environ[UNTIL_DISCONNECT](asyncio.Event().wait()), client.loop)
        began.set()
        waiting.result()
        return []

    served = build(application)
    with serve(served) as client:
        with client.connect("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"):
            assert began.wait(30)
            assert served.bodies.memory.used == 4
        wait_until(lambda: served.bodies.memory.used == 0)


def test_a_stream_pauses_while_its_client_does_not_read_and_ends_after_a_timeout() -> None:
    def make() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    chunks = Chunks(make())
    with serve(build(chunks), QuickProtocol) as client:
        connection = client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert chunks.is_closed.wait(30)
        received = receive_all(connection)

    assert not received.endswith(b"0\r\n\r\n")
    # What the sockets' buffers and ours take, which the kernel may let grow to several times tcp_rmem. A stream that
    # does not pause is never closed, or passes gigabytes on in that time.
    assert chunks.given * 65536 < 256 << 20


def test_a_slow_client_holds_no_thread_for_a_response_of_known_size() -> None:
    body = b"x" * COLLECT_MAX_BYTES

    def application(_environ: object, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(len(body)))])
        yield from (body[start : start + 8192] for start in range(0, len(body), 8192))

    with serve(build(application)) as client:
        waiting = [client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(4)]  # there are two threads
        reply = client.get("/")
        for connection in waiting:
            assert receive_until(connection, b"x").startswith(b"HTTP/1.1 200")

    assert reply.body == body


@pytest.mark.parametrize("length", [PIPE_BYTES * 3, COLLECT_MAX_BYTES + 1])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_large_response_is_complete(length: int, is_known: bool) -> None:
    def application(_environ: object, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", str(length))] if is_known else [])
        return [b"x" * length]

    with serve(build(application)) as client:
        reply = client.get("/")

    assert reply.body.count(b"x") == length


def test_a_response_without_a_body_is_complete() -> None:
    def application(_environ: object, start_response: StartResponse) -> list[bytes]:
        start_response("304 Not Modified", [("ETag", '"1"')])
        return []

    with serve(build(application)) as client:
        reply = client.get("/")

    assert (reply.status, reply.headers["etag"], reply.body) == (304, '"1"', b"")


def test_an_error_before_the_response_is_a_problem() -> None:
    def application(_environ: object, _start_response: object) -> list[bytes]:
        raise ZeroDivisionError

    with serve(build(application)) as client:
        reply = client.get("/")

    assert (reply.status, reply.code) == (500, "internal")


def test_an_error_within_the_response_ends_the_connection_before_its_end() -> None:
    def make() -> Iterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    chunks = Chunks(make())
    with serve(build(chunks)) as client, client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        received = receive_all(connection)

    assert received.endswith(b"5\r\nfirst\r\n")
    assert chunks.is_closed.is_set()


def test_a_request_whose_client_disconnected_is_still_processed() -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def application(_environ: object, start_response: StartResponse) -> list[bytes]:
        began.set()
        assert may_end.wait(30)
        ended.set()
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    with serve(build(application)) as client:
        connection = client.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert began.wait(30)
        connection.close()
        may_end.set()
        wait_until(ended.is_set)
        assert parse(client.connect("GET / HTTP/1.0\r\n\r\n").recv(65536)).status == 200

"""Handlers on the event loop: which requests they get, and what becomes of their responses."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runqy.core.telemetry.tracing import current_request_id
from runqy.errors import QueueNotFound
from runqy.server.dataplane.application import Application, Handler
from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.responses import Response, StreamingResponse
from tests.dataplane.servers import build, echo, parse, receive_all, receive_until, serve

POST = "POST /hot HTTP/1.1\r\nHost: x\r\n"


def with_handler(handler: Handler, wsgi: Callable[..., Any] = echo, **changes: Any) -> Application:
    """Return an application with a handler for POST /hot and GET /hot."""
    routes = {("POST", "/hot"): handler, ("GET", "/hot"): handler, ("HEAD", "/hot"): handler}
    return build(wsgi, find_handler=lambda method, path: routes.get((method, path)), **changes)


async def describe(request: ParsedRequest) -> Response:
    """Return what a handler sees of a request."""
    body = await request.read_body(is_authenticated=True)
    seen = {
        "thread": threading.current_thread().name,
        "id": current_request_id(),
        "a": request.query.get("a"),
        "address": request.peer_address,
        "twice": request.headers.get("X-Twice", ""),
        "body": body.decode(),
    }
    content = json.dumps(seen).encode()
    return Response(200, [(b"content-length", b"%d" % len(content))], content)


def test_a_handler_sees_the_head_and_the_body_on_the_loop() -> None:
    head = "POST /hot?a=1 HTTP/1.1\r\nHost: x\r\nX-Request-ID: given\r\nX-Twice: 1\r\nX-Twice: 2\r\n"

    with serve(with_handler(describe)) as client:
        seen = json.loads(client.ask(f"{head}Content-Length: 4\r\n\r\nbody").body)

    assert "runqy" not in seen.pop("thread")
    assert seen == {"id": "given", "a": "1", "address": "127.0.0.1", "twice": "1,2", "body": "body"}


@pytest.mark.parametrize("given", ["", "with blank", "x" * 129, "\xe9"])
def test_a_request_without_a_plain_id_gets_one(given: str) -> None:
    with serve(with_handler(describe)) as client:
        seen = json.loads(client.ask(f"{POST}X-Request-ID: {given}\r\n\r\n".encode("latin-1")).body)

    assert len(seen["id"]) == 16


@pytest.mark.parametrize("target", ["PUT /hot", "POST /hot/", "POST /h%6ft", "POST //hot", "POST /x/../hot"])
def test_paths_that_match_no_route_exactly_are_passed_to_django(target: str) -> None:
    with serve(with_handler(describe)) as client:
        seen = json.loads(client.ask(f"{target} HTTP/1.1\r\nHost: x\r\n\r\n").body)

    assert seen["REQUEST_METHOD"] == target.split(" ", maxsplit=1)[0]


def test_a_query_of_too_many_parameters_is_refused() -> None:
    with serve(with_handler(describe)) as client:
        reply = client.ask(f"POST /hot?{'&' * 25_000} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")

    assert (reply.status, reply.code) == (400, "invalid_request")


def test_an_error_of_a_handler_is_a_problem_with_the_request_id() -> None:
    async def refuse(_request: ParsedRequest) -> Response:
        raise QueueNotFound

    with serve(with_handler(refuse)) as client:
        reply = client.ask(f"{POST}X-Request-ID: mine\r\n\r\n")

    assert (reply.status, reply.code, reply.headers["x-request-id"]) == (404, "queue_not_found", "mine")


def test_a_bug_in_a_handler_is_a_problem() -> None:
    async def fail(_request: ParsedRequest) -> Response:
        raise ZeroDivisionError

    with serve(with_handler(fail)) as client:
        reply = client.ask(f"{POST}\r\n")

    assert (reply.status, reply.code) == (500, "internal")


def test_a_response_before_the_body_was_read_closes_the_connection() -> None:
    async def refuse(_request: ParsedRequest) -> Response:
        return Response(401, [(b"content-length", b"2")], b"no")

    with serve(with_handler(refuse)) as client:
        connection = client.connect(f"{POST}Content-Length: 1000000\r\n\r\n")
        connection.sendall(b"x" * 999_999)
        reply = parse(receive_until(connection, b"no"))
        connection.sendall(b"x")
        assert receive_all(connection) == b""

    assert (reply.status, reply.headers["connection"]) == (401, "close")


class Stream:
    """A handler whose response has no end."""

    def __init__(self) -> None:
        self.is_closed = threading.Event()

    async def __call__(self, _request: ParsedRequest) -> StreamingResponse:
        return StreamingResponse(200, [(b"content-type", b"text/event-stream")], self.make())

    async def make(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            self.is_closed.set()


def test_a_stream_is_closed_when_its_client_disconnects() -> None:
    stream = Stream()

    with serve(with_handler(stream)) as client:
        with client.connect("GET /hot HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            receive_until(connection, b"data: 1\n\n")
        assert stream.is_closed.wait(30)


def test_head_gets_no_stream() -> None:
    with serve(with_handler(Stream())) as client:
        reply = parse(receive_all(client.connect("HEAD /hot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")))

    assert (reply.status, reply.body) == (200, b"")


def test_lifespans_are_entered_at_startup_and_left_at_shutdown() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[None]:
        events.append("opened")
        yield
        events.append("closed")

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        events.append("served")
        return echo(environ, start_response)

    with serve(build(application, lifespans=[connect])) as client:
        client.get("/")

    assert events == ["opened", "served", "closed"]

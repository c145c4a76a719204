"""Serves the data plane by a real uvicorn on a thread: in front of a test's WSGI function, or the server's own."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from runqy.core.concurrency.executors import BoundedExecutor
from runqy.server.dataplane.application import Application, Drain
from runqy.server.dataplane.bodies import BodyReader
from runqy.server.dataplane.protocol import HttpProtocol
from runqy.server.dataplane.request import ParsedRequest
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

KEY = "Authorization: Bearer key\r\n"
KEPT_S = 30
"""How long a connection is kept between requests, and while the server stops: a client on a busy machine is slow."""


class QuickProtocol(HttpProtocol):
    """The protocol with time limits that tests can wait for."""

    head_timeout_s = 0.5
    linger_s = 0.5
    stalled_timeout_s = 0.5


class PatientProtocol(HttpProtocol):
    """The protocol with time for clients that a busy machine delays."""

    linger_s = 60.0


def has_key(request: ParsedRequest) -> bool:
    """Return whether a request carries a key."""
    return "Authorization" in request.headers


def build(wsgi: "WSGIApplication", **changes: Any) -> Application:
    """Return an application with small limits."""
    fields = {
        "bodies": BodyReader(max_bytes=100_000, memory_bytes=400_000, anonymous_max_bytes=10_000),
        "drain": Drain(0),
        "is_authenticated": has_key,
        "django": BoundedExecutor("test", threads=2),
    }
    return Application(wsgi=wsgi, **(fields | changes))


@contextmanager
def serve(
    application: Application,
    protocol: type[HttpProtocol] = HttpProtocol,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> Iterator["Client"]:
    """Serve an application and yield a client for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        config = uvicorn.Config(
            application,
            http=protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEPT_S,
            timeout_graceful_shutdown=KEPT_S,
        )
        server = uvicorn.Server(config)
        client = Client(listener.getsockname()[1], server)

        def run() -> None:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                client.loop = runner.get_loop()
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield client
        finally:
            for connection in client.opened:
                connection.close()
            server.should_exit = True
            thread.join(2 * KEPT_S)
            assert not thread.is_alive()


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as it came over the wire, its header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Return the code of the problem that it is."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        found = json.loads(self.body)
        assert (found["status"], found["request_id"]) == (self.status, self.headers["x-request-id"])
        code: str = found["code"]
        return code


class Client:
    """Sends bytes to a server, on connections that end with it at the latest."""

    def __init__(self, port: int, server: uvicorn.Server) -> None:
        self.port = port
        self.server = server
        self.loop: asyncio.AbstractEventLoop | None = None
        self.opened: list[socket.socket] = []

    def connect(self, sent: str | bytes = b"") -> socket.socket:
        """Open a connection and send the beginning of something."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.opened.append(connection)
        connection.sendall(sent.encode() if isinstance(sent, str) else sent)
        return connection

    def connect_at_once(self, sent: str | bytes) -> socket.socket:
        """Connect, and send some bytes before the server can find that they take long to come."""
        is_held, may_go_on = threading.Event(), threading.Event()

        def hold() -> None:
            is_held.set()
            may_go_on.wait(60)

        assert self.loop is not None
        self.loop.call_soon_threadsafe(hold)
        try:
            assert is_held.wait(60)
            return self.connect(sent)
        finally:
            may_go_on.set()

    def ask(self, sent: str | bytes) -> Reply:
        """Send bytes and return the response."""
        with self.connect(sent) as connection:
            return receive_reply(connection)

    def ask_at_once(self, sent: str | bytes) -> Reply:
        """Send a few bytes and return the response; see `connect_at_once`."""
        with self.connect_at_once(sent) as connection:
            return receive_reply(connection)

    def get(self, path: str) -> Reply:
        """Return the response to a GET."""
        return self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def receive_reply(connection: socket.socket) -> Reply:
    """Read a response up to its Content-Length."""
    received = receive_until(connection, b"\r\n\r\n")
    if length := re.search(rb"content-length: (\d+)\r\n", received):
        end = received.index(b"\r\n\r\n") + 4 + int(length[1])
        while len(received) < end:
            more = connection.recv(65536)
            assert more, received
            received += more
        return parse(received[:end])
    return parse(received + receive_all(connection))


def receive_all(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def receive_until(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes, up to a few bytes that have to come."""
    received = b""
    while end not in received:
        more = connection.recv(65536)
        assert more, received
        received += more
    return received


def parse(received: bytes) -> Reply:
    """Return a response that came whole."""
    head, _, body = received.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    return Reply(int(line.split(" ")[1]), headers, body)


def split(received: bytes) -> list[Reply]:
    """Return the responses that came one after another, each with its length."""
    replies = []
    while received:
        reply = parse(received)
        length = int(reply.headers["content-length"])
        replies.append(Reply(reply.status, reply.headers, reply.body[:length]))
        received = reply.body[length:]
    return replies


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Return what a WSGI application sees of a request, as JSON."""
    body = environ["wsgi.input"].read()
    seen = {name: value for name, value in environ.items() if isinstance(value, str)} | {"body": body.decode("latin-1")}
    content = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]

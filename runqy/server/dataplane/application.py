"""The ASGI application in front of Django: serves routes that have a handler, and passes on the rest.

Its shutdown is graceful: it reports that it is not ready, ends waits, then stops the server.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import structlog
from asgiref.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    LifespanShutdownCompleteEvent,
    LifespanStartupCompleteEvent,
    Scope,
)

from runqy.core.concurrency.executors import BoundedExecutor, make_reserved_executors
from runqy.core.telemetry.tracing import new_request_id, set_request_id
from runqy.errors import ClientDisconnected, InternalError, RunqyError, ServerBusy, StreamBroken
from runqy.server.dataplane.bodies import BodyReader, find_length
from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.responses import Response, StreamingResponse, problem_response, shared_headers
from runqy.server.dataplane.wsgi import call_wsgi
from runqy.server.metrics.http_requests import OTHER, observe_request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

Hook = Callable[[], None]
CLOSE = (b"connection", b"close")
LINGER_S = 2.0
"""How long a client whose body was refused may continue to send. A connection that is closed at once is reset, and the
client never reads the response."""
BUSY_LINGER_S = 30.0
"""The same for a body that there was no room for: the client is to learn that it may try again."""
STOP_READING_S = 4.0
"""How long bodies may still take to arrive when the process stops."""
ACTIONS = "actions"
ACTION_PREFIXES = ("/api/cli/queues/", "/api/queues/", "/api/cli/tasks/", "/api/tasks/")
"""Paths at which POST and DELETE are actions on queues and tasks. These work without the database."""

log = structlog.get_logger(__name__)


class Drain:
    """Handles the signals of a web process, and calls uvicorn's own handler at the end.

    SIGTERM drains; uvicorn stops after `drain_s`. A second SIGTERM, SIGINT and SIGQUIT stop it at once. SIGUSR1, which
    gunicorn's master passes on, drains without stopping. A supervisor sends it when it begins to stop.
    """

    def __init__(self, drain_s: float) -> None:
        self.is_draining = False
        self._drain_s = drain_s
        self._drain_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []
        self._stop_timer: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._stop_server: Hook = lambda: None

    def on_drain(self, hook: Hook) -> None:
        """Add a hook that ends waits. It is called on the loop when draining begins."""
        self._drain_hooks.append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Add a hook that is called on the loop when the server is about to stop accepting requests."""
        self._stop_hooks.append(hook)

    def install(self) -> None:
        """Replace the signal handlers. Called at the ASGI lifespan's startup, after uvicorn has set its own."""
        # Python allows signal handlers on the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return
        server_handler = signal.getsignal(signal.SIGTERM)
        if callable(server_handler):
            self._stop_server = lambda: server_handler(signal.SIGTERM, None)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain)
        loop.add_signal_handler(signal.SIGUSR1, self.begin)
        for number in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self.stop)

    def begin(self) -> None:
        if not self.is_draining:
            self.is_draining = True
            for hook in self._drain_hooks:
                hook()

    def drain(self) -> None:
        """Begin draining, and stop after `drain_s`. Called again, stop at once."""
        self.begin()
        if self._stop_timer is not None or not self._drain_s:
            self.stop()
        else:
            self._stop_timer = asyncio.get_running_loop().call_later(self._drain_s, self.stop)

    def stop(self) -> None:
        self.begin()
        if not self._is_stopped:
            self._is_stopped = True
            for hook in self._stop_hooks:
                hook()
            self._stop_server()


Handler: TypeAlias = Callable[[ParsedRequest], Awaitable[Response | StreamingResponse]]
FindHandler: TypeAlias = Callable[[str, str], Handler | None]
"""Called with the method, and the path as the client sent it, percent-encoded."""


class PassToDjango(Exception):
    """Raised by a handler, before it reads the body, for a request that Django has to serve."""


RESERVED_THREADS = {"/livez": 1, "/readyz": 2, "/health": 2, "/metrics": 1, "/worker/register": 4, ACTIONS: 4}
"""The number of threads for requests that must be served even while all others block on an unavailable store.

None of these waits for the database without bound, and none may take the threads of another.
"""


def find_no_handler(_method: str, _path: str) -> Handler | None:
    """Find nothing, so that Django serves every request."""
    return None


@dataclass(kw_only=True)
class Application:
    """Runs Django's WSGI application on threads, within limits; routes with a handler stay on the event loop."""

    wsgi: "WSGIApplication"
    bodies: BodyReader
    drain: Drain
    is_authenticated: Callable[[ParsedRequest], bool]
    """Whether a request for Django may send a large body, by its head."""
    has_session: Callable[[ParsedRequest], bool] = lambda _: False
    """The same by its session. It reads the database: called on a thread, and only for large bodies."""
    django: BoundedExecutor
    reserved: Mapping[str, BoundedExecutor] = field(default_factory=lambda: make_reserved_executors(RESERVED_THREADS))
    """The limits of some paths, on threads that they share; `django` is for all others."""
    find_handler: FindHandler = find_no_handler
    lifespans: list[Callable[[], AbstractAsyncContextManager[object]]] = field(default_factory=list)
    """Connections and background tasks: entered on the loop at startup, left at shutdown."""

    def __post_init__(self) -> None:
        self.drain.on_stop(lambda: self.bodies.stop_within(STOP_READING_S))

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            await self._respond(ParsedRequest(scope, receive, self.bodies), send)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)

    async def _respond(self, request: ParsedRequest, send: ASGISendCallable) -> None:
        """Send the response to a request, unless its client has disconnected."""
        set_request_id(new_request_id(request.headers.get("X-Request-ID", "")))
        try:
            response = await self._find_response(request)
            if self.drain.is_draining:
                response.headers.append(CLOSE)  # else it would be closed while the client's next request is on its way
            if isinstance(response, StreamingResponse):
                await _send_stream(request, response, send)
            else:
                await _send(request, response, send)
        except StreamBroken:
            request.break_off()
        except ClientDisconnected:
            pass
        finally:
            request.body.release()

    async def _find_response(self, request: ParsedRequest) -> Response | StreamingResponse:
        """Return the response of a handler or of Django, or a problem."""
        try:
            if handler := self.find_handler(request.method, request.path):
                with contextlib.suppress(PassToDjango):
                    return await handler(request)
            body = await request.read_body(is_authenticated=await self._may_send_large(request))
            return await call_wsgi(self.wsgi, request, body, self._find_executor(request))
        except RunqyError as error:
            return self._problem(request, error)
        except ClientDisconnected:
            raise
        except Exception:
            log.exception("request_failed", method=request.method, path=request.path)
            return self._problem(request, InternalError())

    def _find_executor(self, request: ParsedRequest) -> BoundedExecutor:
        is_action = request.method in ("POST", "DELETE") and request.path.startswith(ACTION_PREFIXES)
        return self.reserved.get(ACTIONS if is_action else request.path, self.django)

    async def _may_send_large(self, request: ParsedRequest) -> bool:
        """Return whether a request may send a large body: it has credentials. Raise ServerBusy."""
        if self.is_authenticated(request):
            return True
        length = find_length(request.scope)
        is_small = request.body.is_received if length is None else length <= self.bodies.anonymous_max_bytes
        return (
            not is_small and "Cookie" in request.headers and await self.django.run(partial(self.has_session, request))
        )

    @staticmethod
    def _problem(request: ParsedRequest, error: RunqyError) -> Response:
        """Return the problem for a request that reaches neither a view nor a handler."""
        observe_request(OTHER, request.method, error.status, began_s=request.began_s)
        response = problem_response(error)
        response.headers += shared_headers(request.scope["scheme"], request.headers.get("Origin", ""))
        return response

    async def _run_lifespan(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            for lifespan in self.lifespans:
                await stack.enter_async_context(lifespan())
            self.drain.install()
            await send(LifespanStartupCompleteEvent(type="lifespan.startup.complete"))
            await receive()
        for executor in (self.django, *self.reserved.values()):
            executor.pool.shutdown(wait=False, cancel_futures=True)
        await send(LifespanShutdownCompleteEvent(type="lifespan.shutdown.complete"))


async def _send(request: ParsedRequest, response: Response, send: ASGISendCallable) -> None:
    """Send a response. If the request's body was not read, let the client finish sending before closing."""
    if request.body.is_received:
        await send(_start(response))
        await send(_chunk(response.body, more=False))
        return
    await send(_start(response, closes=True))
    await send(_chunk(response.body, more=True))
    await request.body.discard(BUSY_LINGER_S if response.status == ServerBusy.status else LINGER_S)
    await send(_chunk(b"", more=False))


async def _send_stream(request: ParsedRequest, response: StreamingResponse, send: ASGISendCallable) -> None:
    if request.method == "HEAD":
        await response.chunks.aclose()
        await _send(request, Response(response.status, response.headers), send)
        return
    sending = asyncio.create_task(_send_chunks(request, response, send))
    watching = asyncio.create_task(request.wait_for_disconnect())
    try:
        await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending
    finally:
        watching.cancel()
        sending.cancel()
        await asyncio.wait((sending, watching))
        await response.chunks.aclose()


async def _send_chunks(request: ParsedRequest, response: StreamingResponse, send: ASGISendCallable) -> None:
    await send(_start(response, closes=not request.body.is_received))
    async for chunk in response.chunks:
        await send(_chunk(chunk, more=True))
    await send(_chunk(b"", more=False))


def _start(response: Response | StreamingResponse, *, closes: bool = False) -> HTTPResponseStartEvent:
    headers = [*response.headers, CLOSE] if closes and CLOSE not in response.headers else response.headers
    return {"type": "http.response.start", "status": response.status, "headers": headers, "trailers": False}


def _chunk(body: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": body, "more_body": more}

"""Calls a WSGI application (PEP 3333) on a thread, with the request body in memory."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from io import BytesIO
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from asgiref.typing import HTTPScope

from runqy.core.concurrency.executors import BoundedExecutor
from runqy.errors import ClientDisconnected
from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.responses import Headers, Response, StreamingResponse
from runqy.server.middleware import QUEUED_AT
from tasks.api.calls import UNTIL_DISCONNECT, WAITED

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

COLLECT_MAX_BYTES = 4 << 20
"""Responses up to this Content-Length are buffered, so that a slow client does not keep a thread busy."""
PIPE_BYTES = 1 << 20
"""The thread of a longer response blocks while the client has not read this much."""
_BODY_HEADERS = (b"content-length", b"transfer-encoding")


async def call_wsgi(
    application: "WSGIApplication", request: ParsedRequest, body: bytes, executor: BoundedExecutor
) -> Response | StreamingResponse:
    """Return an application's response. Raise ServerBusy, and the application's errors."""
    environ = build_environ(request.scope, body)
    environ |= {QUEUED_AT: perf_counter(), UNTIL_DISCONNECT: request.until_disconnect, WAITED: request.has_waited}
    call = WsgiCall(application, environ, asyncio.get_running_loop())
    await executor.start(call.run)
    return await call.response


def build_environ(scope: HTTPScope, body: bytes) -> "WSGIEnvironment":
    """Return the environ of a request whose body has been read.

    Header names with an underscore are dropped: in the environ they would equal those with a hyphen.
    """
    server = scope.get("server") or ("localhost", 80)
    client = scope.get("client") or ("", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 0),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        if b"_" in name or name in _BODY_HEADERS:
            continue
        key = "CONTENT_TYPE" if name == b"content-type" else _environ_key(name)
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if name == b'cookie' else ','}{text}"
        environ[key] = text
    if body or any(name in _BODY_HEADERS for name, _ in scope["headers"]):
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _environ_key(name: bytes) -> str:
    return "HTTP_" + name.decode("latin-1").upper().replace("-", "_")


class WsgiCall:
    """One call of a WSGI application. `run` is called on a thread, everything else on the event loop."""

    def __init__(
        self, application: "WSGIApplication", environ: "WSGIEnvironment", loop: asyncio.AbstractEventLoop
    ) -> None:
        self._application, self._environ, self._loop = application, environ, loop
        self.response: asyncio.Future[Response | StreamingResponse] = loop.create_future()
        self._status = 0
        self._headers: Headers = []
        self._length: int | None = None
        self._collected: list[bytes] = []
        self._pipe: ChunkPipe | None = None

    def run(self) -> None:
        """Call the application and pass its response, or its error, to the event loop."""
        try:
            chunks = self._application(self._environ, self._start_response)
            try:
                for chunk in chunks:
                    self._write(chunk)
            finally:
                if close := getattr(chunks, "close", None):
                    close()
            self._finish()
        except BaseException as error:  # noqa: BLE001 (it is raised where the response is awaited)
            self._fail(error)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
        if exc_info is not None and self._pipe is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self._status = int(status.split(" ", 1)[0])
        self._headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        lengths = [value for name, value in self._headers if name == b"content-length"]
        self._length = int(lengths[0]) if lengths else None
        return self._write

    def _write(self, chunk: bytes) -> None:
        if self._pipe is not None:
            self._pipe.write(chunk)
        elif self._length is not None and self._length <= COLLECT_MAX_BYTES:
            self._collected.append(chunk)
        elif chunk:
            self._pipe = ChunkPipe(self._loop)
            self._pass_on(StreamingResponse(self._status, self._headers, self._pipe))
            self._pipe.write(chunk)

    def _finish(self) -> None:
        if self._pipe is not None:
            self._pipe.finish()
            return
        self._pass_on(Response(self._status, self._headers, b"".join(self._collected)))

    def _fail(self, error: BaseException) -> None:
        if self._pipe is not None:
            self._pipe.finish(error)
            return
        self._loop.call_soon_threadsafe(self._set, None, error)

    def _pass_on(self, response: Response | StreamingResponse) -> None:
        self._loop.call_soon_threadsafe(self._set, response, None)

    def _set(self, response: Response | StreamingResponse | None, error: BaseException | None) -> None:
        if self.response.done():  # the request was cancelled
            if self._pipe is not None:
                self._pipe.close()  # nobody reads what the thread writes, which would block for ever
            return
        if response is not None:
            self.response.set_result(response)
        elif error is not None:
            self.response.set_exception(error)


class ChunkPipe:
    """Passes a response from a thread to the event loop. The thread blocks while the client is slow."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._is_finished = self._is_closed = False
        self._error: BaseException | None = None
        self._has_news = asyncio.Event()

    def write(self, chunk: bytes) -> None:
        """Pass on a chunk as soon as there is room. Raise ClientDisconnected."""
        with self._changed:
            self._changed.wait_for(lambda: self._size < PIPE_BYTES or self._is_closed)
            if self._is_closed:
                raise ClientDisconnected
            self._chunks.append(chunk)
            self._size += len(chunk)
        self._loop.call_soon_threadsafe(self._has_news.set)

    def finish(self, error: BaseException | None = None) -> None:
        """End the response, with an error if it is incomplete."""
        with self._changed:
            self._is_finished, self._error = True, error
        self._loop.call_soon_threadsafe(self._has_news.set)

    def __aiter__(self) -> "ChunkPipe":
        return self

    async def __anext__(self) -> bytes:
        """Return all chunks so far, joined. Raise the error that ended the response."""
        while True:
            with self._changed:
                chunks, is_finished = self._chunks, self._is_finished
                self._chunks, self._size = deque(), 0
                self._changed.notify()
            if chunks:
                return b"".join(chunks)
            if is_finished:
                break
            # The thread sets the event through the loop, so not between the look above and this line.
            self._has_news.clear()
            await self._has_news.wait()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def close(self) -> None:
        """Stop the thread: nobody reads any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    async def aclose(self) -> None:
        """Stop the thread: the client has disconnected or received everything."""
        self.close()

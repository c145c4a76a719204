"""The data plane in the test process: the server's ASGI application on an event loop of its own."""

import asyncio
import json
import re
import threading
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from django.http import HttpResponse

from runqy.asgi import build_application
from tests.support.event_loop import WatchedLoop

NOT_COMPARED = {"x-request-id", "connection"}
"""Headers that differ between requests, or are about the connection."""


Comparable: TypeAlias = tuple[int, dict[str, str], bytes]
"""The status, headers and body of a response."""

START_S = 60.0
"""How long a callback may take while the application starts and no request waits."""


class DataPlane:
    """Sends requests to the ASGI application, as a server would."""

    def __init__(self) -> None:
        self._loop = WatchedLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="data-plane", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._application = build_application()
        self._loop.slow_callback_duration, allowed_s = START_S, self._loop.slow_callback_duration
        self._call(self._start())
        self._loop.slow_callback_duration = allowed_s

    def serves(self, method: str, path: str) -> bool:
        """Return whether the data plane has a handler of its own for a request."""
        return self._application.find_handler(method, path.partition("?")[0]) is not None

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        address: str = "127.0.0.1",
        scheme: str = "http",
    ) -> HttpResponse:
        """Return the response to a request, in the type of Django's test client."""
        return self._response(*self._call(self._send(method, path, headers, body, address=address, scheme=scheme)))

    def send_together(self, requests: list[tuple[str, str, dict[str, str], bytes]]) -> list[HttpResponse]:
        """Return the responses to requests that arrive in one turn of the loop."""

        async def send_all() -> list[tuple[int, list[tuple[bytes, bytes]], bytes]]:
            return await asyncio.gather(*(self._send(*request) for request in requests))

        return [self._response(*sent) for sent in self._call(send_all())]

    @staticmethod
    def _response(status: int, sent_headers: list[tuple[bytes, bytes]], content: bytes) -> HttpResponse:
        response = HttpResponse(content, status=status)
        del response["Content-Type"]
        for name, value in sent_headers:
            response[name.decode("latin-1")] = value.decode("latin-1")
        response.json = lambda: json.loads(content)  # type: ignore[attr-defined]
        return response

    def close(self) -> None:
        self._call(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    async def _start(self) -> None:
        for lifespan in self._application.lifespans:
            await self._stack.enter_async_context(lifespan())

    async def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        address: str = "127.0.0.1",
        scheme: str = "http",
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        raw_path, _, query = path.partition("?")
        all_headers = {"host": "testserver", "content-length": str(len(body))}
        all_headers |= {name.lower(): value for name, value in headers.items()}
        scope: Any = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": scheme,
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers.items()],
            "client": (address, 50000),
            "server": ("testserver", 80),
        }
        incoming: asyncio.Queue[Any] = asyncio.Queue()
        incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self._application(scope, incoming.get, send)
        start, *chunks = sent
        return start["status"], list(start["headers"]), b"".join(chunk["body"] for chunk in chunks)


def comparable(response: HttpResponse, *, is_later: bool = False) -> Comparable:
    """Return a response without what differs between requests; with `is_later`, also without task ids and times."""
    headers = {name.lower(): value for name, value in response.items() if name.lower() not in NOT_COMPARED}
    content: bytes = b"".join(response) if response.streaming else response.content
    content = content.replace(response["X-Request-ID"].encode(), b"request-id")
    if is_later:
        if "content-length" in headers:
            assert int(headers["content-length"]) == len(response.content)
            headers["content-length"] = "…"
        headers = {name: _without_ids_and_times(value) for name, value in headers.items()}
        headers |= {"retry-after": "…"} if "ratelimit" in headers and "retry-after" in headers else {}
        content = _without_ids_and_times(content.decode()).encode()
    return response.status_code, headers, content


_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?Z|(?<=;t=)[0-9]+")


def _without_ids_and_times(text: str) -> str:
    numbers: dict[str, int] = {}  # the same id is replaced by the same number
    return _TIME.sub("…", _ID.sub(lambda found: f"id-{numbers.setdefault(found[0], len(numbers))}", text))

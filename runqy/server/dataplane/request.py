"""The request that a handler of the data plane receives: its head, and its body to be read."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from time import perf_counter
from typing import Any, TypeVar

from asgiref.typing import ASGIReceiveCallable, HTTPScope
from django.core.exceptions import TooManyFieldsSent
from django.http import QueryDict, parse_cookie

from runqy.accounts.authentication import presented_key
from runqy.errors import ClientDisconnected, RequestInvalid
from runqy.server.dataplane.bodies import Body, BodyReader
from runqy.server.dataplane.responses import Headers

T = TypeVar("T")

BREAK_OFF = "runqy.break_off"
"""The extension of the ASGI scope by which HttpProtocol closes the connection of a response that cannot be completed.
Servers without it close it themselves, and log an error."""


_NO_QUERY: Mapping[str, str] = {}


class RequestHeaders(Mapping[str, str]):
    """Case-insensitive headers as in WSGI: repeated ones are joined, and names with underscores are dropped."""

    def __init__(self, headers: Headers) -> None:
        self._values: dict[str, str] = {}
        for raw_name, raw_value in headers:
            if b"_" in raw_name:
                continue
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            known = self._values.get(name)
            self._values[name] = value if known is None else f"{known},{value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class ParsedRequest:
    """A request whose head has arrived."""

    def __init__(self, scope: HTTPScope, receive: ASGIReceiveCallable, bodies: BodyReader) -> None:
        self.scope = scope
        self.began_s = perf_counter()
        self.method: str = scope["method"]
        # As sent, percent-encoded.
        self.path = scope["raw_path"].decode("latin-1")
        raw_headers: Headers = scope["headers"]  # type: ignore[assignment] # uvicorn's list of pairs
        self.headers = RequestHeaders(raw_headers)
        self.body = Body(scope, receive, bodies)
        self.has_waited = False
        """The client has waited for what Django responds about."""

    @property
    def query(self) -> Mapping[str, str]:
        """The last value of each query parameter. Raises RequestInvalid."""
        query_string = self.scope["query_string"]
        if not query_string:
            return _NO_QUERY
        try:
            return QueryDict(query_string).dict()
        except TooManyFieldsSent as error:
            raise RequestInvalid(str(error)) from error

    def cookie(self, name: str) -> str:
        """Return the value of a cookie; empty if there is none."""
        return parse_cookie(self.headers.get("Cookie", "")).get(name, "")

    @property
    def peer_address(self) -> str:
        """The address of the peer, which may be a proxy; empty on a Unix socket."""
        client = self.scope["client"]
        return client[0] if client else ""

    async def read_body(self, *, is_authenticated: bool) -> bytes:
        """Return the whole body. Raise RequestTooLarge, ServerBusy, RequestTimeout, ClientDisconnected."""
        return await self.body.read(is_authenticated=is_authenticated, owner=presented_key(self.headers))

    async def wait_for_disconnect(self) -> None:
        """Return when the client closes the connection. A body that has not been read is dropped."""
        self.body.is_dropped = True
        try:
            while True:
                await self.body.receive_chunk()
        except ClientDisconnected:
            return

    def break_off(self) -> None:
        """Close the connection without the end of the response."""
        extension: Any = (self.scope.get("extensions") or {}).get(BREAK_OFF)
        if extension is not None:
            extension["call"]()

    async def until_disconnect(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and cancel it when the client closes the connection. A body that was not read is dropped.

        Raise ClientDisconnected, and the coroutine's errors.
        """
        working, watching = asyncio.create_task(work), asyncio.create_task(self.wait_for_disconnect())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientDisconnected
        finally:
            working.cancel()
            watching.cancel()
            await asyncio.wait((working, watching))

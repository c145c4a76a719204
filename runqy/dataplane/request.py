"""The request that a handler of the data plane gets: its head, and its body to be read."""

import re
from functools import cached_property

from asgiref.typing import ASGIReceiveCallable, HTTPScope

from runqy.dataplane.bodies import Body, BodyReader, ClientDisconnected
from runqy.dataplane.responses import Headers, new_request_id

_GIVEN_ID = re.compile(rb"[!-~]{1,128}")


class Request:
    """A request whose head has been parsed."""

    def __init__(self, scope: HTTPScope, receive: ASGIReceiveCallable, bodies: BodyReader) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path = scope["raw_path"].decode("ascii")
        """As sent, with its escapes."""
        self.headers: Headers = scope["headers"]  # type: ignore[assignment] # uvicorn's list of pairs
        """Names in lower case."""
        self.body = Body(scope, receive, bodies)

    @property
    def query_string(self) -> bytes:
        return self.scope["query_string"]

    @property
    def client_address(self) -> str:
        """The address at the other end of the connection, a proxy's too; empty for a Unix socket."""
        client = self.scope["client"]
        return client[0] if client else ""

    @cached_property
    def id(self) -> str:
        """The client's X-Request-ID if it is a plain one, else a random id."""
        given = self.find_header(b"x-request-id")
        return given.decode("ascii") if given and _GIVEN_ID.fullmatch(given) else new_request_id()

    def find_header(self, name: bytes) -> bytes | None:
        """Return a header by its name in lower case; of several the values joined by commas."""
        values = [value for key, value in self.headers if key == name]
        return b",".join(values) if values else None

    async def read_body(self, *, is_authenticated: bool) -> bytes:
        """Return the whole body. Raises RequestTooLarge, ServerBusy, RequestTimeout, ClientDisconnected."""
        return await self.body.read(is_authenticated=is_authenticated)

    async def wait_for_disconnect(self) -> None:
        """Return when the client closes the connection. Only once the body is read."""
        try:
            while True:
                await self.body.receive_chunk()
        except ClientDisconnected:
            return

"""Reads whole request bodies on the event loop, within limits of size, time and memory."""

import asyncio
from collections import Counter
from io import BytesIO

from asgiref.typing import ASGIReceiveCallable, HTTPScope

from runqy.errors import ClientDisconnected, RequestTimeout, RequestTooLarge, ServerBusy

RECEIVED = "runqy.received"
"""The ASGI extension with which `HttpProtocol` marks a completely received body."""

ANONYMOUS_MAX_BYTES = 1 << 20
ANONYMOUS_SHARE = 0.25
"""The part of the memory that bodies of requests without credentials may use."""

MEMORY_FOR_BODIES = 5
"""How many bodies of the largest size the memory of a process has room for."""
LARGE_BYTES = 1 << 20
LARGE_SHARE = 0.75
"""The part of the memory that larger bodies may use. It is reserved before they are read."""
OWNER_SHARE = 0.5
"""The part of the memory that the large bodies of one key may use."""

TIMEOUT_S = 30.0
"""How long each part of PART_BYTES may take."""
PART_BYTES = 512 << 10
LONGEST_TIMEOUT_S = 600.0


class BodyMemory:
    """Limits the bytes of all bodies that the process holds, so that no key uses the room of all others."""

    def __init__(self, limit: int, *, largest: int) -> None:
        """`largest` is the size of a body for which there has to be room."""
        self.limit = limit
        self.anonymous_limit = int(limit * ANONYMOUS_SHARE)
        self.large_limit = max(int(limit * LARGE_SHARE), largest)
        self.owner_limit = max(int(limit * OWNER_SHARE), largest)
        self.used = 0
        self.anonymous_used = 0
        # The bytes of large bodies by their keys.
        self._large_used: Counter[str] = Counter()

    def reserve(self, size: int, *, is_authenticated: bool, owner: str) -> None:
        """Raise ServerBusy if the memory is used up. `owner` is the key of an authenticated request."""
        is_full = self.used + size > self.limit
        if size > LARGE_BYTES:
            is_full |= self._large_used.total() + size > self.large_limit
            is_full |= self._large_used[owner] + size > self.owner_limit
        if is_full or (not is_authenticated and self.anonymous_used + size > self.anonymous_limit):
            raise ServerBusy("The server has reached its memory limit for request bodies (RUNQY_MAX_BODY_SIZE).")
        self._add(size, size > LARGE_BYTES, is_authenticated=is_authenticated, owner=owner)

    def release(self, size: int, *, is_authenticated: bool, owner: str) -> None:
        self._add(-size, size > LARGE_BYTES, is_authenticated=is_authenticated, owner=owner)

    def _add(self, size: int, is_large: bool, *, is_authenticated: bool, owner: str) -> None:
        self.used += size
        if not is_authenticated:
            self.anonymous_used += size
        if is_large:
            self._large_used[owner] += size
            self._large_used += Counter()  # removes zeros


class BodyReader:
    def __init__(
        self,
        *,
        max_bytes: int,
        memory_bytes: int,
        anonymous_max_bytes: int = ANONYMOUS_MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.max_bytes = max_bytes
        self.anonymous_max_bytes = min(anonymous_max_bytes, max_bytes)
        self.memory = BodyMemory(max(memory_bytes, max_bytes), largest=max_bytes)
        self.timeout_s = timeout_s
        self._timeouts: set[asyncio.Timeout] = set()
        self._read_until = float("inf")

    def stop_within(self, seconds: float) -> None:
        """Limit the time of incomplete bodies, because the process is about to stop."""
        self._read_until = asyncio.get_running_loop().time() + seconds
        for timeout in self._timeouts:
            self._reschedule(timeout, self._read_until)

    async def read_chunks(self, body: "Body", limit: int, *, is_authenticated: bool) -> bytes:
        """Receive a body to its end. Raise RequestTooLarge, ServerBusy, RequestTimeout, ClientDisconnected."""
        loop = asyncio.get_running_loop()
        start, buffer = loop.time(), BytesIO()
        timeout = asyncio.timeout_at(self._deadline(start, 0))
        self._timeouts.add(timeout)
        try:
            async with timeout:
                while not body.has_ended:
                    chunk = await body.receive_chunk()
                    if buffer.tell() + len(chunk) > limit:
                        raise too_large(limit, is_authenticated=is_authenticated)
                    body.reserve(buffer.tell() + len(chunk))
                    buffer.write(chunk)
                    self._reschedule(timeout, self._deadline(start, buffer.tell()))
        except TimeoutError as error:
            raise RequestTimeout("The body did not arrive in time.") from error
        finally:
            self._timeouts.discard(timeout)
        return buffer.getvalue()

    def _deadline(self, start: float, received: int) -> float:
        """Return when the part that arrives now has to be complete, and with it those before."""
        whole_s = min(self.timeout_s * (1 + received // PART_BYTES), LONGEST_TIMEOUT_S)
        return min(start + whole_s, self._read_until)

    @staticmethod
    def _reschedule(timeout: asyncio.Timeout, deadline: float) -> None:
        if not timeout.expired():
            timeout.reschedule(deadline)


class Body:
    """The body of one request. It is read at most once, and released when the request is over."""

    def __init__(self, scope: HTTPScope, receive: ASGIReceiveCallable, reader: BodyReader) -> None:
        self._scope, self._receive, self._reader = scope, receive, reader
        self.has_ended = False
        self.is_dropped = False
        """What arrives is dropped while the client waits: the body of a GET."""
        self._reserved, self._is_authenticated, self._owner = 0, False, ""

    @property
    def is_received(self) -> bool:
        """Whether the whole body has arrived, even if it was not read yet."""
        return self.has_ended or (self._scope.get("extensions") or {}).get(RECEIVED) is not None

    async def read(self, *, is_authenticated: bool, owner: str = "") -> bytes:
        """Return the whole body. `owner` is the key that the request presents.

        Raise RequestTooLarge, ServerBusy, RequestTimeout, ClientDisconnected.
        """
        if self.is_dropped:
            return b""
        self._is_authenticated, self._owner = is_authenticated, owner
        reader = self._reader
        limit = reader.max_bytes if is_authenticated else reader.anonymous_max_bytes
        if self.is_received:
            content = await self.receive_chunk()
            if len(content) > limit:
                raise too_large(limit, is_authenticated=is_authenticated, size=len(content))
            self.reserve(len(content))
            return content
        length = find_length(self._scope)
        if length is not None and length > limit:
            raise too_large(limit, is_authenticated=is_authenticated, size=length)
        if length is not None and length > LARGE_BYTES:
            self.reserve(length)  # before it is read: else many would be read in part, and all be refused
        return await reader.read_chunks(self, limit, is_authenticated=is_authenticated)

    async def receive_chunk(self) -> bytes:
        """Return the next chunk. Raise ClientDisconnected."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        self.has_ended = not message.get("more_body", False)
        return message.get("body", b"")

    async def discard(self, seconds: float) -> None:
        """Receive and drop the rest of a refused body, so that the client reads the response."""
        try:
            async with asyncio.timeout(seconds):
                while not self.is_received:
                    await self.receive_chunk()
        except (TimeoutError, ClientDisconnected):
            pass

    def reserve(self, size: int) -> None:
        """Reserve memory for so many bytes in all. Raise ServerBusy."""
        if size > self._reserved:
            self.release()
            self._reader.memory.reserve(size, is_authenticated=self._is_authenticated, owner=self._owner)
            self._reserved = size

    def release(self) -> None:
        if self._reserved:
            self._reader.memory.release(self._reserved, is_authenticated=self._is_authenticated, owner=self._owner)
            self._reserved = 0


def find_length(scope: HTTPScope) -> int | None:
    """Return the Content-Length; None if the body is chunked."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return None


def too_large(limit: int, *, is_authenticated: bool, size: int | None = None) -> RequestTooLarge:
    subject = "The body is larger than" if size is None else f"The body has {size} bytes, more than"
    rule = "(RUNQY_MAX_BODY_SIZE)" if is_authenticated else "for requests without credentials"
    advice = " Store large data elsewhere and send its location, or raise the limit." if is_authenticated else ""
    return RequestTooLarge(f"{subject} the {limit} bytes {rule}.{advice}")

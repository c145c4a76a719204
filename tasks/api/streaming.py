"""Responses that follow a task or a batch until it has ended, and what ends them early.

What one run of a task streams is plain text or lines of JSON, for DRF's viewset and the data plane. A response that
ends is the whole stream of a run that succeeded. In any other case the connection is broken off, or the response is an
error if nothing has been sent.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Protocol

from runqy.api.renderers import encode_json
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import TaskChunks, count_dropped
from runqy.broker.tasks.reader import TaskLocation, TaskStatus
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import (
    BrokerUnavailable,
    KeyRequired,
    RunqyError,
    ServerBusy,
    StreamBroken,
    StreamIncomplete,
    TaskNotFound,
)
from tasks import payloads
from tasks.waiting import ResultWaiters, Waiter, WaitingClient, Watched

HEARTBEAT_S = 15.0
"""The interval of comments, which keep clients and proxies from closing an idle connection."""
PART_BYTES = 64 << 10
"""About how much of a response is rendered before the client has read what came before."""
_STOPPING = "The server stops; try again."
TEXT_TYPE = "text/plain; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"


class StreamSource(Protocol):
    """Renders what has changed about a task or a batch."""

    is_over: bool
    """The response is complete."""
    status: Any
    """What a waiter compares: the status when it was read last."""
    heartbeat: bytes
    """Sent to an idle connection; empty if the format has nothing that clients ignore."""
    breaks: bool
    """A response that ends early is broken off, because its end would mean that it is complete."""

    def read(self) -> AsyncGenerator[bytes, None]:
        """Yield what has changed since the last call, in parts.

        Raise TaskNotFound, BrokerUnavailable, and what makes the response impossible to complete.
        """

    def render_gone(self) -> bytes:
        """Return what is sent when the task was deleted."""


class TaskStreamSource(StreamSource, Protocol):
    """Renders what has changed about a task."""

    location: TaskLocation
    watched: Watched


class StreamBody:
    """The body of a response that follows a task or a batch until its end, or until the key is no longer accepted."""

    def __init__(self, source: StreamSource, client: WaitingClient, waiter: Waiter | None) -> None:
        """Without a waiter the stream ends after what there is."""
        self._source, self._client, self._waiter = source, client, waiter
        self._parts = self._follow()
        self._first = b""
        self._body = self._render()

    async def open(self, *, until_begun: bool = False) -> None:
        """Read what there is: an error before the response begins is a response of its own.

        With `until_begun`, wait until there is something. Raise TaskNotFound, BrokerUnavailable, and what the source
        raises; while it waits also KeyRequired, ServerBusy.
        """
        try:
            self._first = await anext(self._parts, b"")
            while until_begun and not (self._first or self._source.is_over):
                self._first = await anext(self._parts, b"")
        except BaseException:  # also a cancellation: the waiter must not keep its place
            await self.aclose()
            raise

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body

    async def aclose(self) -> None:
        """End the stream, even if it was never read."""
        await self._body.aclose()
        await self._parts.aclose()
        if self._waiter is not None:
            self._waiter.leave()

    async def _render(self) -> AsyncGenerator[bytes, None]:
        try:
            if self._first:
                yield self._first
            async for part in self._parts:
                self._check()  # a slow client may have taken minutes to read the part before
                if part:
                    yield part
        except RunqyError as error:
            if self._source.breaks:
                raise StreamBroken from error

    async def _follow(self) -> AsyncGenerator[bytes, None]:
        """Yield what the source has, and wait for more; nothing in an empty part."""
        has_begun = False
        while True:
            try:
                async with aclosing(self._source.read()) as parts:
                    async for part in parts:
                        has_begun = True
                        yield part
            except BrokerUnavailable:
                if not has_begun:
                    raise
            except TaskNotFound:
                if not has_begun or self._source.breaks:
                    raise
                yield self._source.render_gone()
                return
            if not has_begun:
                has_begun = True
                yield b""
            if self._source.is_over:
                return
            if self._waiter is None:
                raise ServerBusy(_STOPPING)
            self._waiter.status = self._source.status  # what the next poll is compared with
            has_news = await self._waiter.wait(HEARTBEAT_S)
            self._check()
            if not has_news:
                yield self._source.heartbeat

    def _check(self) -> None:
        """Raise KeyRequired when the client's key is no longer accepted, ServerBusy when the process drains."""
        if not self._client.is_accepted():
            raise KeyRequired
        if self._waiter is not None and self._waiter.is_draining:
            raise ServerBusy(_STOPPING)


async def open_stream(
    source: TaskStreamSource,
    waiters: ResultWaiters,
    client: WaitingClient,
    *,
    is_final: bool = False,
    until_begun: bool = False,
) -> StreamBody:
    """Return the opened stream of a task. The caller must close it.

    The stream of a task that has ended (`is_final`) is no waiter. Raise TooManyWaiters, and the errors of
    `StreamBody.open`.
    """
    waiter = None
    if not (is_final or waiters.is_draining):
        queue, task_id = source.location
        waiter = await waiters.add(task_id, queue=queue, client=client, watched=source.watched)
    stream = StreamBody(source, client, waiter)
    await stream.open(until_begun=until_begun)
    return stream


def requested_type(accept: str) -> str:
    """Return the type that a client asks for; empty if the first chunk decides."""
    wants_text, wants_lines = "text/plain" in accept, NDJSON_TYPE in accept
    if wants_text == wants_lines:
        return ""
    return TEXT_TYPE if wants_text else NDJSON_TYPE


class RunChunks:
    """The chunks of a run: of the one in progress, of the next one if the task waits, of the last one if it has ended.

    See `StreamSource`.
    """

    heartbeat = b""
    breaks = True
    watched = Watched.STATE

    def __init__(self, waiters: ResultWaiters, record: TaskRecord, content_type: str) -> None:
        self.is_over = False
        self.status: TaskStatus | None = None
        self.content_type = content_type
        self._waiters = waiters
        self.location = record.queue, record.id
        self._run: int | None = None
        self._offset = 0
        self._has_gap = False

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the chunks since the last call. Raise TaskNotFound, BrokerUnavailable, StreamIncomplete."""
        while True:
            status, chunks = await self._waiters.read_chunks(self.location, run=self._run or 0, offset=self._offset)
            self.status = status
            if self._run is None:
                if not (status.state is TaskState.ACTIVE or status.state.is_final):
                    return
                self._run = chunks.run
            elif chunks.run != self._run:
                raise StreamIncomplete
            for part in self._render(chunks):
                yield part
            if self._offset < chunks.end:
                continue
            if status.state is TaskState.ACTIVE:
                return
            if status.state is not TaskState.COMPLETED or self._has_gap:
                raise StreamIncomplete
            self.is_over = True
            self.content_type = self.content_type or TEXT_TYPE
            return

    def render_gone(self) -> bytes:
        return b""

    def _render(self, chunks: TaskChunks) -> Iterator[bytes]:
        """Yield chunks, several in each part."""
        part = bytearray()
        for entry in chunks.entries:
            self._offset += 1
            if count_dropped(entry):
                self._has_gap = True
                continue
            part += self._render_chunk(entry)
            if len(part) >= PART_BYTES:
                yield bytes(part)
                part.clear()
        if part:
            yield bytes(part)

    def _render_chunk(self, entry: bytes) -> bytes:
        value = payloads.as_json(entry)
        text = payloads.decode_text(value)
        if not self.content_type:
            self.content_type = NDJSON_TYPE if text is None else TEXT_TYPE
        if self.content_type == TEXT_TYPE and text is not None:
            return text.encode("utf-8", "replace")
        line = payloads.to_one_line(encode_json(value))
        return line + b"\n" if self.content_type == NDJSON_TYPE else line


async def open_chunk_stream(
    waiters: ResultWaiters, record: TaskRecord, *, client: WaitingClient, accept: str, waits: bool = True
) -> tuple[StreamBody, str]:
    """Return the stream of a run and its content type. The caller must close the stream.

    Unless the client asks for a type, `waits` for what decides it. Raise StreamIncomplete, TooManyWaiters,
    TaskNotFound, BrokerUnavailable, KeyRequired, ServerBusy.
    """
    source = RunChunks(waiters, record, requested_type(accept))
    stream = await open_stream(
        source,
        waiters,
        client,
        is_final=record.state.is_final,
        until_begun=waits and not source.content_type,
    )
    return stream, source.content_type or TEXT_TYPE

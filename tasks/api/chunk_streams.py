"""What one run of a task streams, as plain text or lines of JSON, for DRF's viewset and the data plane.

A response that ends is the whole stream of a run that succeeded. In any other case the connection is broken off, or the
response is an error if nothing has been sent.
"""

from collections.abc import AsyncGenerator, Iterator

from runqy.api.renderers import encode_json
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import TaskChunks, count_dropped
from runqy.broker.tasks.reader import TaskStatus
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import StreamIncomplete
from tasks import payloads
from tasks.api.streaming import PART_BYTES, StreamBody, open_stream
from tasks.waiting import ResultWaiters, WaitingClient, Watched

TEXT_TYPE = "text/plain; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"


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

"""The states of a task as server-sent events, for DRF's viewset and the data plane.

`state` is sent for the current state and each change, `progress` when the handler reports progress, `end` with the task
once it has ended, `gone` if it is deleted. The id of a state is `<state>-<attempt>`: after `Last-Event-ID`, the current
state is sent only if it differs. Events are not stored.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Protocol

import msgspec
from drf_spectacular.utils import OpenApiParameter

from runqy.api.renderers import encode_json
from runqy.broker.states import TaskState
from runqy.broker.tasks.record import TaskProgress, TaskRecord
from runqy.errors import BrokerUnavailable, TaskNotFound
from tasks.api.serializers import task_response
from tasks.waiting import ResultWaiters, Waiter, WaitingClient, Watched

LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID", str, OpenApiParameter.HEADER, description="The `id` of the last received event"
)

EVENT_TYPE = "text/event-stream"
# `X-Accel-Buffering: no` stops nginx from holding events back.
EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
HEARTBEAT_S = 15.0
"""The interval of comments, which keep clients and proxies from closing an idle connection."""
_HEARTBEAT = b": heartbeat\n\n"


class TaskStateEvent(msgspec.Struct, frozen=True):
    """The data of the event `state`."""

    id: str
    queue: str
    state: TaskState
    attempts: Annotated[int, msgspec.Meta(description="Number of attempts that started")]


class TaskProgressEvent(msgspec.Struct, frozen=True):
    """The data of the event `progress`."""

    id: str
    queue: str
    progress: TaskProgress


class EventSource(Protocol):
    """Renders what has changed about a task."""

    is_over: bool
    """There will be no more events."""

    async def read(self, waiter: Waiter) -> bytes:
        """Return the events since the last call. Raise TaskNotFound, BrokerUnavailable."""


class EventStream:
    """The events of a task, until it has ended or the client's key is no longer accepted."""

    def __init__(
        self,
        source: EventSource,
        waiter: Waiter | None,
        *,
        first: bytes,
    ) -> None:
        """`first` are the current events. Without a waiter the stream ends after them."""
        self._source = source
        self._waiter = waiter
        self._chunks = self._render(first)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        """End the stream, even if it was never read."""
        await self._chunks.aclose()
        if self._waiter is not None:
            self._waiter.leave()

    async def _render(self, chunk: bytes) -> AsyncGenerator[bytes, None]:
        if chunk:
            yield chunk
        while self._waiter is not None and not self._source.is_over:
            has_news = await self._waiter.wait(HEARTBEAT_S)
            if self._waiter.is_draining or not self._waiter.client.is_accepted():
                return
            if chunk := await self._read(self._waiter) if has_news else _HEARTBEAT:
                yield chunk

    async def _read(self, waiter: Waiter) -> bytes:
        """Return the events of a task that may have changed; empty if it has not, or while Redis is unavailable."""
        try:
            return await self._source.read(waiter)
        except BrokerUnavailable:
            return b""
        except TaskNotFound:
            self._source.is_over = True
            return render_sse("gone", encode_json({"id": waiter.task_id}))


class StateEvents:
    """The events `state`, `progress` and `end`. See `EventSource`."""

    def __init__(self, last_event_id: str) -> None:
        self.is_over = False
        self._sent_id = last_event_id
        self._sent_progress: TaskProgress | None = None

    async def read(self, waiter: Waiter) -> bytes:
        return self.render(await waiter.read())

    def render(self, record: TaskRecord) -> bytes:
        """Return the events of a task's state and progress that have not been sent."""
        self.is_over = record.state.is_final
        chunk = b""
        if event_id(record) != self._sent_id:
            self._sent_id = event_id(record)
            chunk = render_event(record)
        if record.progress != self._sent_progress:
            self._sent_progress = record.progress
            if record.progress is not None and not self.is_over:
                data = TaskProgressEvent(id=record.id, queue=record.queue, progress=record.progress)
                chunk += render_sse("progress", encode_json(data))
        return chunk


async def open_event_stream(
    waiters: ResultWaiters,
    record: TaskRecord,
    *,
    client: WaitingClient,
    last_event_id: str,
) -> EventStream:
    """Return the events of a task, starting with its current state. The caller must close the stream.

    The stream ends when the client's key is no longer accepted. Raise TooManyWaiters, TaskNotFound, BrokerUnavailable.
    """
    waiter = None
    if not (record.state.is_final or waiters.is_draining):
        waiter = await waiters.add(record.id, queue=record.queue, client=client, watched=Watched.STATE)
        try:
            # Read again: the task may have changed before it was watched.
            record = await waiter.read()
        except BaseException:  # also a cancellation: the waiter must not keep its place
            waiter.leave()
            raise
    source = StateEvents(last_event_id)
    return EventStream(source, waiter, first=source.render(record))


def is_end_known(record: TaskRecord, last_event_id: str) -> bool:
    """Return whether a client has received the last event. A response of 204 stops it from reconnecting."""
    return record.state.is_final and event_id(record) == last_event_id


def event_id(record: TaskRecord) -> str:
    return f"{record.state}-{record.attempts}"


def render_event(record: TaskRecord) -> bytes:
    if record.state.is_final:
        return render_sse("end", encode_json(task_response(record)), event_id(record))
    data = TaskStateEvent(id=record.id, queue=record.queue, state=record.state, attempts=record.attempts)
    return render_sse("state", encode_json(data), event_id(record))


def render_sse(name: str, data: bytes, id_: str = "") -> bytes:
    """Return a server-sent event."""
    # Data may have several lines: results may have line breaks between tokens.
    lines = [f"id: {id_}".encode()] if id_ else []
    lines += [f"event: {name}".encode(), *(b"data: " + line for line in data.splitlines())]
    return b"\n".join(lines) + b"\n\n"

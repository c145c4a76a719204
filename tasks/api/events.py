"""The states of a task as server-sent events, for DRF's viewset and the data plane alike.

`state` is sent for the current state and each change, `end` with the task once it has ended, `gone` if it is deleted.
An id is `<state>-<attempt>`: after `Last-Event-ID`, the current state is sent only if it differs. No log is kept.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated

import msgspec
from drf_spectacular.utils import OpenApiParameter

from runqy.api.renderers import encode_json
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from runqy.errors import BrokerUnavailable, TaskNotFound
from tasks.api.bodies import TaskResponse, task_info
from tasks.waiting import ResultWaiters, Waiter, WaitingClient

LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID", str, OpenApiParameter.HEADER, description="The `id` of the last event that was received"
)

EVENT_TYPE = "text/event-stream"
EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
HEARTBEAT_S = 15.0
"""After so much silence a comment is sent, so that neither end nor a proxy gives the connection up."""
_HEARTBEAT = b": heartbeat\n\n"


class TaskStateEvent(msgspec.Struct, frozen=True):
    """The data of the event `state`."""

    id: str
    queue: str
    state: TaskState
    attempts: Annotated[int, msgspec.Meta(description="Runs that began and counted")]


class EventStream:
    """The events of a task, until it has ended or the client may not see it any more."""

    def __init__(
        self,
        record: TaskRecord,
        waiter: Waiter | None,
        *,
        last_event_id: str = "",
        is_authorized: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take what the task is now; without a waiter, the stream is over after that."""
        self._waiter = waiter
        self._is_authorized = is_authorized
        self._sent_id = last_event_id
        self._is_over = waiter is None
        self._chunks = self._render(self._next_event(record))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        """End the stream, also when it was never read."""
        await self._chunks.aclose()
        if self._waiter is not None:
            self._waiter.leave()

    async def _render(self, chunk: bytes) -> AsyncGenerator[bytes, None]:
        if chunk:
            yield chunk
        while self._waiter is not None and not self._is_over:
            has_news = await self._waiter.wait(HEARTBEAT_S)
            if self._waiter.is_draining or not self._is_authorized():
                return
            if chunk := await self._read_event(self._waiter) if has_news else _HEARTBEAT:
                yield chunk

    async def _read_event(self, waiter: Waiter) -> bytes:
        """Return the event of a task that may have changed; empty if it has not, or while Redis is away."""
        try:
            return self._next_event(await waiter.read())
        except BrokerUnavailable:
            return b""
        except TaskNotFound:
            self._is_over = True
            return _event("gone", encode_json({"id": waiter.task_id}))

    def _next_event(self, record: TaskRecord) -> bytes:
        """Return the event of a task's state; empty if it was sent before."""
        self._is_over = self._is_over or record.state.is_final
        if event_id(record) == self._sent_id:
            return b""
        self._sent_id = event_id(record)
        return render_event(record)


async def open_event_stream(
    waiters: ResultWaiters,
    record: TaskRecord,
    *,
    client: WaitingClient,
    last_event_id: str,
    is_authorized: Callable[[], bool],
) -> EventStream:
    """Return the events of a task that was read, from its current state on; to be closed.

    The stream ends when the key is not authorized any more. Raises TooManyWaiters, TaskNotFound, BrokerUnavailable.
    """
    waiter = None
    if not (record.state.is_final or waiters.is_draining):
        waiter = await waiters.add(record.id, queue=record.queue, client=client, wants_changes=True)
        try:
            record = await waiter.read()
        except BaseException:
            waiter.leave()
            raise
    return EventStream(record, waiter, last_event_id=last_event_id, is_authorized=is_authorized)


def is_end_known(record: TaskRecord, last_event_id: str) -> bool:
    """Return whether a client has received all events there are: 204 keeps it from connecting again."""
    return record.state.is_final and event_id(record) == last_event_id


def event_id(record: TaskRecord) -> str:
    """Return what is the same for a task in the same state of the same attempt."""
    return f"{record.state}-{record.attempts}"


def render_event(record: TaskRecord) -> bytes:
    """Return the event of a task's state."""
    if record.state.is_final:
        return _event("end", encode_json(TaskResponse(task_info(record))), event_id(record))
    data = TaskStateEvent(id=record.id, queue=record.queue, state=record.state, attempts=record.attempts)
    return _event("state", encode_json(data), event_id(record))


def _event(name: str, data: bytes, id_: str = "") -> bytes:
    """Return an event; a result may have line breaks between its tokens, and each line of data has a prefix."""
    lines = [f"id: {id_}".encode()] if id_ else []
    lines += [f"event: {name}".encode(), *(b"data: " + line for line in data.splitlines())]
    return b"\n".join(lines) + b"\n\n"

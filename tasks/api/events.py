"""What happens to a task as server-sent events, for DRF's viewset and the data plane.

`state` is sent for the current state and each change, `chunk` for what the current run streams, `reset` when a new run
makes the chunks before worthless, `gap` where chunks were dropped, `progress` when the handler reports progress, `end`
with the task once it has ended, `gone` if it is deleted. The id of a state, a chunk and an end is an EventPosition:
after `Last-Event-ID`, everything continues there.
"""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from drf_spectacular.utils import OpenApiParameter

from runqy.api.renderers import encode_json
from runqy.broker.replies import MAX_DIGITS
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import TaskChunks, count_dropped
from runqy.broker.tasks.reader import TaskStatus
from runqy.broker.tasks.record import TaskProgress, TaskRecord, decode_progress
from tasks import payloads
from tasks.api.serializers import task_response
from tasks.api.streaming import PART_BYTES, StreamBody, open_stream
from tasks.queries import read_task
from tasks.waiting import ResultWaiters, WaitingClient, Watched

LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID", str, OpenApiParameter.HEADER, description="The `id` of the last received event"
)

EVENT_TYPE = "text/event-stream"
# `X-Accel-Buffering: no` stops nginx from holding events back.
EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
EVENT_STREAM_HEADERS = {"Content-Type": EVENT_TYPE, **EVENT_HEADERS}
HEARTBEAT = b": heartbeat\n\n"


class TaskStateEvent(msgspec.Struct, frozen=True):
    """The data of the event `state`."""

    id: str
    queue: str
    state: TaskState
    attempts: Annotated[int, msgspec.Meta(description="Number of attempts that started")]


class TaskChunkEvent(msgspec.Struct, frozen=True):
    """The data of the event `chunk`."""

    id: str
    queue: str
    run: int
    chunk: Any


class TaskResetEvent(msgspec.Struct, frozen=True):
    """The data of the event `reset`."""

    id: str
    queue: str
    run: int


class TaskGapEvent(msgspec.Struct, frozen=True):
    """The data of the event `gap`."""

    id: str
    queue: str
    run: int
    dropped: int


class TaskProgressEvent(msgspec.Struct, frozen=True):
    """The data of the event `progress`."""

    id: str
    queue: str
    progress: TaskProgress


class EventPosition(NamedTuple):
    """What a client has received: the chunks of a run up to an offset, and the last state."""

    run: int = 0
    offset: int = 0
    state: str = ""
    """`<state>-<attempts>`; empty if the client knows no state of this run."""

    def __str__(self) -> str:
        return f"{self.run}-{self.offset}-{self.state}"

    @classmethod
    def parse(cls, event_id: str) -> "EventPosition":
        """Return the position that an id names; of any other text, such as the ids before 1.0, the beginning."""
        found = _EVENT_ID.fullmatch(event_id)
        return cls(int(found[1]), int(found[2]), found[3]) if found else cls()


_NO_RUN = -1
_FINAL_STATES = tuple(f"{state}-" for state in TaskState if state.is_final)
_NUMBER = rf"[0-9]{{1,{MAX_DIGITS - 2}}}"
_EVENT_ID = re.compile(rf"({_NUMBER})-({_NUMBER})-((?:[a-z]+-{_NUMBER})?)")


class TaskEvents:
    """The events of a task. See `StreamSource`."""

    heartbeat = HEARTBEAT
    breaks = False
    watched = Watched.STATE

    def __init__(self, waiters: ResultWaiters, record: TaskRecord, position: EventPosition) -> None:
        """`record` is the task as it was found."""
        self.is_over = False
        self.status: TaskStatus | None = None
        self._waiters = waiters
        self.location = self._queue, self._id = record.queue, record.id
        self._record: TaskRecord | None = record
        self._position = position
        # The state and the start of the run that were sent last.
        self._sent: tuple[TaskState, int | None] | None = None
        self._sent_progress: bytes | None = None

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the events since the last call, in the order in which it happened.

        A run's chunks come after its state `active`, and before the state in which it ended.
        """
        record, self._record = self._record, None
        while True:
            status, chunks = await self._waiters.read_chunks(
                self.location, run=self._position.run, offset=self._position.offset
            )
            self.status = status
            if reset := self._begin_run(chunks):
                yield reset
            state = status.state, status.started_at_ns
            if state == self._sent:
                record = None
            elif record is None or (record.state, record.started_at_ns) != state:
                # The chunks are read once more: by then they are all that came before this state.
                record = await read_task(self._waiters.broker, self.location)
                continue
            if record is not None and record.state is TaskState.ACTIVE and (event := self._render_state(record)):
                yield event
            for part in self._render_chunks(chunks):
                yield part
            if self._position.offset < chunks.end:
                continue
            if record is not None and (event := self._render_state(record)):
                yield event
            self._sent = state
            if event := self._render_progress(status):
                yield event
            self.is_over = status.state.is_final
            return

    def render_gone(self) -> bytes:
        self.is_over = True
        return render_gone(self._id)

    def _begin_run(self, chunks: TaskChunks) -> bytes:
        """Begin the run of these chunks, unless it was begun. Return the event `reset` if chunks were sent before."""
        known = self._position
        if chunks.run == known.run:
            return b""
        self._position = EventPosition(chunks.run)
        data = TaskResetEvent(self._id, self._queue, chunks.run)
        return render_sse("reset", encode_json(data)) if known.offset else b""

    def _render_state(self, record: TaskRecord) -> bytes:
        """Return the event of a state that has not been sent."""
        text = state_text(record)
        if text == self._position.state:
            return b""
        self._position = self._position._replace(state=text)
        if record.state.is_final:
            return render_sse("end", encode_json(task_response(record)), str(self._position))
        data = TaskStateEvent(id=record.id, queue=record.queue, state=record.state, attempts=record.attempts)
        return render_sse("state", encode_json(data), str(self._position))

    def _render_chunks(self, chunks: TaskChunks) -> Iterator[bytes]:
        """Yield the events of chunks, several in each part."""
        for entries in _split(chunks.entries):
            run, offset, state = self._position
            self._position = EventPosition(run, offset + len(entries), state)
            # Thousands of chunks a second are rendered: what their data have in common is encoded once.
            members = encode_json(TaskChunkEvent(self._id, self._queue, run, None)).removesuffix(b"null}")
            if (values := payloads.read_lines(entries)) is None:
                yield self._render_each(entries, offset, members)
                continue
            start, middle = b"id: %d-" % run, b"-%b\nevent: chunk\ndata: %b" % (state.encode(), members)
            events = [b"%b%d%b%b}\n\n" % (start, n, middle, value) for n, value in enumerate(values, offset + 1)]
            yield b"".join(events)

    def _render_each(self, entries: Sequence[bytes], offset: int, members: bytes) -> bytes:
        """Return the events of entries, some of which are no chunks, or have line breaks or no JSON."""
        part, dropped = bytearray(), 0
        run, _, state = self._position
        for number, entry in enumerate(entries, offset + 1):
            if lost := count_dropped(entry):
                dropped += lost
                continue
            if dropped:
                part += self._render_gap(dropped)
                dropped = 0
            value = payloads.as_json(entry)
            chunk = encode_json(value) if isinstance(value, str) else entry
            part += render_sse("chunk", b"%b%b}" % (members, chunk), f"{run}-{number}-{state}")
        part += self._render_gap(dropped)
        return bytes(part)

    def _render_gap(self, dropped: int) -> bytes:
        """Return the event `gap`; empty if nothing was dropped."""
        data = TaskGapEvent(self._id, self._queue, self._position.run, dropped)
        return render_sse("gap", encode_json(data)) if dropped else b""

    def _render_progress(self, status: TaskStatus) -> bytes:
        """Return the event of a progress that has not been sent."""
        if status.progress == self._sent_progress:
            return b""
        self._sent_progress = status.progress
        progress = decode_progress(status.progress)
        if progress is None or status.state.is_final:
            return b""
        return render_sse("progress", encode_json(TaskProgressEvent(self._id, self._queue, progress)))


def _split(entries: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield entries in their order, about PART_BYTES at once."""
    start = size = 0
    for end, entry in enumerate(entries, 1):
        size += len(entry)
        if size >= PART_BYTES or end == len(entries):
            yield entries[start:end]
            start, size = end, 0


async def open_event_stream(
    waiters: ResultWaiters,
    record: TaskRecord,
    *,
    client: WaitingClient,
    last_event_id: str,
) -> StreamBody:
    """Return the events of a task, starting with its current state. The caller must close the stream.

    The stream ends when the client's key is no longer accepted. Raise TooManyWaiters, TaskNotFound, BrokerUnavailable.
    """
    position = EventPosition.parse(last_event_id)
    if position.state.startswith(_FINAL_STATES):
        # The task has run again since, or is another one with the same id, whose runs are counted anew.
        position = position._replace(run=_NO_RUN)
    source = TaskEvents(waiters, record, position)
    return await open_stream(source, waiters, client, is_final=record.state.is_final)


def is_end_known(record: TaskRecord, last_event_id: str) -> bool:
    """Return whether a client has received the last event. A response of 204 stops it from reconnecting."""
    known = EventPosition.parse(last_event_id)
    return record.state.is_final and (known.run, known.state) == (record.runs, state_text(record))


def state_text(record: TaskRecord) -> str:
    return f"{record.state}-{record.attempts}"


def render_gone(task_id: str) -> bytes:
    return render_sse("gone", encode_json({"id": task_id}))


def render_sse(name: str, data: bytes, id_: str = "") -> bytes:
    """Return a server-sent event."""
    head = f"id: {id_}\nevent: {name}\n" if id_ else f"event: {name}\n"
    if b"\n" in data or b"\r" in data:  # results may have line breaks between tokens
        data = b"\ndata: ".join(data.splitlines())
    return b"%bdata: %b\n\n" % (head.encode(), data)

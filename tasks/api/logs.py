"""What a task printed, and server-sent events that follow it.

`output` is sent with each new part of the text, `end` once the task has ended, `gone` if it is deleted. The id of an
output is `<attempt>-<offset>`: after `Last-Event-ID`, the text continues there.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec

from runqy.api.query_parameters import FlagParameter, IntegerParameter
from runqy.api.renderers import encode_json
from runqy.api.serializers import BodySerializer
from runqy.broker.states import TaskState
from runqy.broker.tasks.output import TaskOutput
from runqy.broker.tasks.reader import TaskLocation, TaskStatus
from tasks.api.events import HEARTBEAT, render_gone, render_sse
from tasks.api.serializers import TaskLogs
from tasks.api.streaming import StreamBody, open_stream
from tasks.queries import read_task_output
from tasks.waiting import ResultWaiters, WaitingClient, Watched

MAX_ATTEMPT = 1_000_000
END_ID = "end"
_EVENT_ID = re.compile(r"(\d{1,9})-(\d{1,18})")


class LogQuerySerializer(BodySerializer):
    """Which attempt's output to show, and whether to follow it."""

    attempt = IntegerParameter(
        "By default the last one that printed anything; with `follow`, the first one to send",
        lowest=1,
        highest=MAX_ATTEMPT,
    )
    follow = FlagParameter("Stream the output as server-sent events until the task has ended")


class OutputEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The data of the event `output`."""

    attempt: int
    text: str
    truncated: bool
    shared: bool


class OutputEndEvent(msgspec.Struct, frozen=True):
    """The data of the event `end`."""

    id: str
    queue: str
    state: TaskState


@dataclass(frozen=True, slots=True)
class OutputPosition:
    """Where the next text of a task begins."""

    attempt: int | None = None
    """None: the last attempt that printed anything."""
    offset: int = 0


def task_logs(location: TaskLocation, output: TaskOutput, attempt: int | None) -> TaskLogs:
    queue, task_id = location
    return TaskLogs(
        id=task_id,
        queue=queue,
        attempt=attempt or output.attempt,
        attempts=list(output.attempts),
        text=output.text.decode("utf-8", "replace"),
        truncated=output.offset > 0,
        shared=output.is_shared,
    )


def find_position(attempt: int | None, last_event_id: str) -> OutputPosition:
    """Return where a client begins to follow: after the last event that it received, or at the attempt."""
    if known := _EVENT_ID.fullmatch(last_event_id):
        return OutputPosition(int(known[1]), int(known[2]))
    return OutputPosition(attempt)


class OutputEvents:
    """The events `output` and `end` of a task. See `StreamSource`."""

    heartbeat = HEARTBEAT
    breaks = False
    watched = Watched.OUTPUT

    def __init__(self, waiters: ResultWaiters, location: TaskLocation, position: OutputPosition) -> None:
        self.is_over = False
        self.status: TaskStatus | None = None
        self._waiters = waiters
        self.location = location
        self._position = position

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the events since the last call: of the attempt that was sent last, and of later ones."""
        while True:
            position = self._position
            status, output = await read_task_output(
                self._waiters.broker, self.location, attempt=position.attempt, offset=position.offset
            )
            self.status = status
            if event := self._render(output):
                yield event
            later = [attempt for attempt in output.attempts if attempt > (self._position.attempt or 0)]
            if not later:
                break
            self._position = OutputPosition(min(later))
        if status.state.is_final:
            self.is_over = True
            queue, task_id = self.location
            yield render_sse(END_ID, encode_json(OutputEndEvent(task_id, queue, status.state)), END_ID)

    def render_gone(self) -> bytes:
        self.is_over = True
        return render_gone(self.location[1])

    def _render(self, output: TaskOutput) -> bytes:
        """Return the event of a text that has not been sent; empty if there is none."""
        if not output.attempt or not output.text:
            return b""
        is_truncated = output.offset > self._position.offset
        self._position = OutputPosition(output.attempt, output.end)
        event = OutputEvent(
            attempt=output.attempt,
            text=output.text.decode("utf-8", "replace"),
            truncated=is_truncated,
            shared=output.is_shared,
        )
        return render_sse("output", encode_json(event), f"{output.attempt}-{output.end}")


async def open_output_stream(
    waiters: ResultWaiters,
    location: TaskLocation,
    position: OutputPosition,
    *,
    client: WaitingClient,
) -> StreamBody:
    """Return the output of a task from a position on. The caller must close the stream.

    It ends with the task, and when the client's key is no longer accepted. Raise TooManyWaiters, TaskNotFound,
    BrokerUnavailable.
    """
    source = OutputEvents(waiters, location, position)
    return await open_stream(source, waiters, client)

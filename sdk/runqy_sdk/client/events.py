"""Decode server-sent events, and continue them after a lost connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runqy_sdk.client.errors import ApiError, ServerUnreachable, StreamRestarted, TaskDeleted
from runqy_sdk.client.models import Event
from runqy_sdk.client.operations import Call, Pause, Retries, decode

HEARTBEAT_S = 15.0
"""How long a server has nothing to say at most: then it sends a comment."""


class EventDecoder:
    """Takes the bytes of a response, returns its events."""

    def __init__(self, decode: Callable[[str], Any] = decode) -> None:
        self._decode = decode
        self._rest: list[bytes] = []  # the beginning of a line, joined once: a result may be one of many megabytes
        self._fields: dict[str, str] = {}
        self._data: list[str] = []  # lines of it: a result may have line breaks between its tokens

    def feed(self, data: bytes) -> Iterator[Event]:
        end, *lines = data.split(b"\n")
        self._rest.append(end)
        if not lines:
            return
        first, self._rest = b"".join(self._rest), [lines.pop()]
        for line in (first, *lines):
            name, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(": ")
            if name == "data":
                self._data.append(value)
            elif name in ("id", "event"):
                self._fields[name] = value
            elif not line.strip() and self._data:
                event = Event(
                    self._fields.get("event", ""), self._decode("\n".join(self._data)), self._fields.get("id", "")
                )
                self._fields, self._data = {}, []
                yield event


@dataclass
class Following:
    """The events of a task, or of another path, over several connections."""

    path: str
    retries: Retries
    last_id: str = ""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    is_over: bool = False
    _decoder: EventDecoder = field(default_factory=EventDecoder)

    def connect(self, decode: Callable[[str], Any] = decode) -> Call:
        """Return the next request."""
        self._decoder = EventDecoder(decode)
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": self.last_id} if self.last_id else {})}
        return Call("GET", self.path, self.query, headers=headers, extra_timeout_s=HEARTBEAT_S)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Yield the events in the bytes of a response."""
        self.retries.reset()  # a heartbeat, too, is a sign of life
        for event in self._decoder.feed(data):
            self.last_id = event.id or self.last_id
            self.is_over = event.name in ("end", "gone")
            yield event

    def lost(self, error: ApiError | ServerUnreachable | None = None) -> Pause:
        """Return the pause before the next connection. Raise the error if it stays."""
        if isinstance(error, ApiError) and not error.is_temporary:
            raise error
        return self.retries.next_pause(error)


def refuse_deletion(event: Event) -> Event:
    """Return an event. Raise TaskDeleted."""
    if event.name == "gone":
        raise TaskDeleted("the task was deleted")
    return event


def chunk_of(event: Event, has_chunks: bool) -> tuple[object, ...]:
    """Return the chunk of an event, in a tuple that is empty for other events. Raise StreamRestarted."""
    if event.name == "reset" and has_chunks:
        raise StreamRestarted("the task began again: what it streamed before is void")
    return (event.data["chunk"],) if event.name == "chunk" else ()

"""Decode server-sent events, and continue them after a lost connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from runqy_sdk.client.errors import ApiError, ServerUnreachable, StreamRestarted, TaskDeleted
from runqy_sdk.client.models import Event
from runqy_sdk.client.operations import Pause, Retries


class EventDecoder:
    """Takes the bytes of a response, returns its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(": ")
            if name == "data" and "data" in self._fields:
                self._fields["data"] += f"\n{value}"  # a result may have line breaks between its tokens
            elif name in ("id", "event", "data"):
                self._fields[name] = value
            elif not line.strip() and "data" in self._fields:
                fields, self._fields = self._fields, {}
                yield Event(fields.get("event", ""), json.loads(fields["data"]), fields.get("id", ""))


@dataclass
class Following:
    """The events of a task over several connections."""

    retry_for_s: float
    last_id: str = ""
    is_over: bool = False
    decoder: EventDecoder = field(default_factory=EventDecoder)
    _retries: Retries | None = None

    def connect(self) -> dict[str, str]:
        """Return the headers of the next request."""
        self.decoder = EventDecoder()
        return {"Accept": "text/event-stream", **({"Last-Event-ID": self.last_id} if self.last_id else {})}

    def receive(self, data: bytes) -> Iterator[Event]:
        """Yield the events in the bytes of a response. Raise TaskDeleted."""
        for event in self.decoder.feed(data):
            self.last_id = event.id or self.last_id
            self._retries = None
            self.is_over = event.name in ("end", "gone")
            if event.name == "gone":
                raise TaskDeleted("the task was deleted")
            yield event

    def lost(self, error: ApiError | ServerUnreachable | None = None) -> Pause:
        """Return the pause before the next connection. Raise the error if it stays."""
        if isinstance(error, ApiError) and not error.is_temporary:
            raise error
        self._retries = self._retries or Retries(self.retry_for_s)
        return self._retries.next_pause(error or ServerUnreachable("the server ended the events"))


def chunk_of(event: Event, has_chunks: bool) -> tuple[object, ...]:
    """Return the chunk of an event, in a tuple that is empty for other events. Raise StreamRestarted."""
    if event.name == "reset" and has_chunks:
        raise StreamRestarted("the task began again: what it streamed before is void")
    return (event.data["chunk"],) if event.name == "chunk" else ()

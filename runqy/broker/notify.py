"""Who is told when a task ends: set when it is enqueued, and carried in its hash to the entry about its end."""

import msgspec

MAX_BYTES = 4096
"""Of the encoded value. A worker can write any."""


class Notify(msgspec.Struct, frozen=True, array_like=True):
    """Who is told when a task ends. Fields are only appended, each with a default: tasks have been stored with it."""

    endpoints: bool = False
    """A webhook endpoint covers the queue."""
    revision: int = 0
    """The newest revision from which on one of them covers it: those that came later are not told."""
    include_result: bool = False
    url: str = ""
    """The task's own webhook."""
    events: tuple[str, ...] = ()
    """The events that are sent to `url`."""
    batch: str = ""
    """The id of the batch that the task is a member of."""

    def encode(self) -> bytes:
        # Scripts look at the first byte alone (`lua/parts/append_end.lua`).
        return (b"1" if self.include_result else b"0") + msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, content: bytes) -> "Notify":
        """Raise ValueError."""
        if len(content) > MAX_BYTES:
            raise ValueError("notify")
        return _decode(content[1:])


_decode = msgspec.msgpack.Decoder(Notify).decode

"""Read and remove the entries of the streams that hold what maintenance has to write to the database.

Audit records, deliveries of secrets and ends of tasks each have a stream with limits of its own, and a function that
appends to it. What is common to them is here: nothing is removed before the database has it.
"""

from collections.abc import Mapping, Sequence

import msgspec

from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import command, script


class StreamEntry(msgspec.Struct, frozen=True):
    """An unverified entry: any client with write access to the stream may have added it."""

    id: str
    fields: Mapping[bytes, bytes]
    """Empty if it is larger than the limit."""

    @property
    def content(self) -> bytes:
        return self.fields.get(b"content", b"")


def read_entries(stream: str, limit: int, *, max_bytes: int, after: str = "") -> Request[list[StreamEntry]]:
    """Return the oldest entries of a stream, or those that follow an entry. A key of another type has none."""
    start = f"({after}" if after else "-"
    call = script("read_entries")(stream=stream, start=start, limit=limit, max_bytes=max_bytes)
    return Request((call,), _parse, is_bulky=True, tolerates_wrong_types=True)


def delete_entries(stream: str, ids: Sequence[str]) -> Request[None]:
    delete = command("XDEL", stream, *ids, key=stream)
    return Request((delete,), lambda _: None, is_repeatable=True)


def count_entries(stream: str) -> Request[int]:
    """Return how many entries are not in the database yet."""
    count = command("XLEN", stream, key=stream)
    return Request((count,), lambda replies: int(replies[0] or 0), tolerates_wrong_types=True)


def _parse(replies: Sequence[Reply]) -> list[StreamEntry]:
    return [
        StreamEntry(entry_id.decode(), dict(zip(values[::2], values[1::2], strict=True)))
        for entry_id, values in replies[0] or ()
    ]

"""Buffer audit records in a stream until they are in the database."""

from collections.abc import Sequence

from runqy.broker import keys
from runqy.broker.request import Request
from runqy.broker.scripts import script
from runqy.broker.streams import entries
from runqy.broker.streams.entries import StreamEntry

MAX_ENTRIES = 20_000
MAX_BYTES = 16 << 20
"""At either limit nothing is appended. The caller then makes no change, so that no change is without its record."""


def append_record(content: bytes) -> Request[bool]:
    """Append a record; return False if the stream is full. A Redis without free memory accepts records.

    A record that is in the stream twice is stored once.
    """
    call = script("append_audit")(
        audit=keys.AUDIT_STREAM, max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES, content=content
    )
    return Request((call,), lambda replies: replies[0] == 1, is_repeatable=True)


def read_entries(count: int, *, after: str = "") -> Request[list[StreamEntry]]:
    """Return the oldest entries, or those that follow the entry with the id `after`."""
    return entries.read_entries(keys.AUDIT_STREAM, count, max_bytes=MAX_BYTES, after=after)


def delete_entries(ids: Sequence[str]) -> Request[None]:
    return entries.delete_entries(keys.AUDIT_STREAM, ids)


def count_entries() -> Request[int]:
    """Return how many records are not in the database yet."""
    return entries.count_entries(keys.AUDIT_STREAM)

"""Buffer audit records in a stream until they are in the database."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.operation import Request
from runqy.broker.replies import Reply
from runqy.broker.scripts import command, script

MAX_ENTRIES = 20_000
MAX_BYTES = 16 << 20
"""At either limit nothing is appended. The caller then makes no change, so that no change is without its record."""


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An unverified entry of the stream: any client with write access to Redis may have added it."""

    id: str
    content: bytes


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
    start = f"({after}" if after else "-"
    read = command("XRANGE", keys.AUDIT_STREAM, start, "+", "COUNT", count, key=keys.AUDIT_STREAM)
    return Request((read,), _parse, is_bulky=True)


def delete_entries(ids: Sequence[str]) -> Request[None]:
    delete = command("XDEL", keys.AUDIT_STREAM, *ids, key=keys.AUDIT_STREAM)
    return Request((delete,), lambda _: None, is_repeatable=True)


def count_entries() -> Request[int]:
    """Return how many records are not in the database yet."""
    return Request((command("XLEN", keys.AUDIT_STREAM, key=keys.AUDIT_STREAM),), lambda replies: int(replies[0]))


def _parse(replies: Sequence[Reply]) -> list[StreamEntry]:
    # Entries that other programs added may have any fields.
    return [
        StreamEntry(entry_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True)).get(b"content", b""))
        for entry_id, fields in replies[0]
    ]

"""The ends of tasks that are told to others: a stream of each Redis queue, from which maintenance moves them on.

Who is told (`Notify`) is set when a task is enqueued, and carried in its hash to the entry about its end. The scripts
that end a task append to the stream (`lua/parts/append_end.lua`), also in a full Redis. It is never trimmed. Any worker
of the queue can write there, so entries are validated when they are read.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from runqy.broker.keys import QueueKeys
from runqy.broker.message import CANCELED
from runqy.broker.replies import Reply, read_number, replace_nul
from runqy.broker.request import Request
from runqy.broker.streams import entries
from runqy.broker.streams.entries import StreamEntry
from runqy.broker.streams.run_log import read_error

NOTIFY_MAX_BYTES = 4096
"""Of the encoded value. A worker can write any."""
MAX_RESULT_BYTES, MAX_ENDS_WITH_RESULTS = 20_480, 10_000
"""Larger results are left out, and all results while so many ends wait. `append_end.lua` has the numbers too."""
ERROR_MAX_BYTES = 1024
_ID_MAX_BYTES, _END_ID_MAX_BYTES = 255, 64
_DETAILS_MAX_BYTES = 4096
_MAX_ENTRY_BYTES = MAX_RESULT_BYTES + NOTIFY_MAX_BYTES + _DETAILS_MAX_BYTES + 1024


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
        if len(content) > NOTIFY_MAX_BYTES:
            raise ValueError("notify")
        return _decode(content[1:])


_decode = msgspec.msgpack.Decoder(Notify).decode


class EndOutcome(StrEnum):
    """How a task ended."""

    COMPLETED = "completed"
    ARCHIVED = "archived"
    CANCELED = "canceled"
    DELETED = "deleted"
    EXPIRED = "expired"


class TaskEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a task. A task that is run again ends again."""

    task_id: str
    end_id: str
    """The lease token of the run, or a text that the script made. With the task it identifies the end."""
    outcome: EndOutcome
    attempt: int = 0
    """How many attempts there were."""
    error: str = ""
    """At most 1 KiB."""
    error_class: str = ""
    result: bytes | None = None
    """None if there is none, nobody wants it, or it was left out."""
    is_result_omitted: bool = False
    """There is one, but it exceeds MAX_RESULT_BYTES, or too many ends were waiting."""
    ended_ns: int
    notify: Notify


class EndEntry(msgspec.Struct, frozen=True):
    """An entry of a stream of ends."""

    id: str
    end: TaskEnd | None
    """None if the entry is invalid."""


def read_ends(queue: str, *, limit: int) -> Request[list[EndEntry]]:
    """Return the oldest entries of a Redis queue's stream, in order."""
    read = entries.read_entries(QueueKeys.of(queue).ends, limit, max_bytes=_MAX_ENTRY_BYTES)

    def parse(replies: Sequence[Reply]) -> list[EndEntry]:
        return [_read_entry(entry) for entry in read.parse(replies)]

    return Request(read.commands, parse, is_bulky=True, tolerates_wrong_types=True)


def delete_ends(queue: str, ids: Sequence[str]) -> Request[None]:
    """Remove entries that are in the database."""
    return entries.delete_entries(QueueKeys.of(queue).ends, ids)


def count_ends(queue: str) -> Request[int]:
    return entries.count_entries(QueueKeys.of(queue).ends)


def _read_entry(entry: StreamEntry) -> EndEntry:
    try:
        return EndEntry(entry.id, _read_end(entry))
    except (ValueError, KeyError, RecursionError):  # msgspec.DecodeError and UnicodeDecodeError are ValueErrors
        return EndEntry(entry.id, None)


def _read_end(entry: StreamEntry) -> TaskEnd:
    """Return the end that `append_end.lua` appended. Raise ValueError or KeyError if it did not."""
    outcome, ended, attempt, is_omitted, end_id, task_id = entry.fields[b"end"].split(b"\0", 5)
    ended_ns, attempts = read_number(ended), read_number(attempt or b"0")
    if ended_ns is None or attempts is None or not 10**18 <= ended_ns < 1 << 63:
        raise ValueError("ended")
    notify = Notify.decode(entry.fields[b"notify"])
    result = entry.fields[b"result"]
    if len(result) > MAX_RESULT_BYTES:
        raise ValueError("result")
    known = EndOutcome(outcome.decode())
    error, error_class = map(replace_nul, read_error(entry.fields[b"details"], max_bytes=ERROR_MAX_BYTES))
    return TaskEnd(
        task_id=_text(task_id, _ID_MAX_BYTES),
        end_id=_text(end_id, _END_ID_MAX_BYTES),
        outcome=known,
        attempt=min(attempts, 2**31 - 1),
        error=error or (CANCELED if known is EndOutcome.CANCELED else ""),
        error_class=error_class,
        result=result if known is EndOutcome.COMPLETED and result else None,
        is_result_omitted=is_omitted == b"1",
        ended_ns=ended_ns,
        notify=notify,
    )


def _text(data: bytes, max_bytes: int) -> str:
    """Return an id as text. Raise ValueError if it is too long, missing or cannot be stored."""
    if not data or len(data) > max_bytes or b"\0" in data:
        raise ValueError("text")
    return data.decode()

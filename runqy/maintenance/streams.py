"""Move the entries of Redis's streams to the database, each stream at its pace: what is common to all that is moved.

Nothing is removed from Redis before the database has it. See `runqy.maintenance.failed_rows` for entries that raise.
"""

from collections.abc import Callable, Collection, Sequence

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.request import Request
from runqy.broker.streams.entries import StreamEntry
from runqy.maintenance.failed_rows import RowFailures

ENTRIES_AT_ONCE = 500
READ_MAX, READ_MIN = 1000, 50
"""The entries that are read at once, of all queues and of each: a transaction is not worth its cost for few."""
QUEUES_MAX = 100
"""The number of queues that are read at once."""
TICK_MAX_S = 10.0
"""How long a tick continues while there are entries. The next tick includes queues that are new by then."""

_Read = Callable[..., Request[list[StreamEntry]]]
_Delete = Callable[[Sequence[str]], Request[None]]


def move_entries(
    broker: Broker, read: _Read, delete: _Delete, store: Callable[[Sequence[StreamEntry]], object], rows: RowFailures
) -> int:
    """Move the entries of one stream, oldest first, and return how many; several processes may do so at once.

    `store` commits some, and ignores those that are stored: their process may have been killed before it removed them.
    What it cannot store stays in Redis, and is passed. Raise BrokerUnavailable, DatabaseError.
    """
    moved, after = 0, ""

    def move(entries: Sequence[StreamEntry]) -> None:
        nonlocal moved
        store(entries)
        broker.run(delete([entry.id for entry in entries]))
        moved += len(entries)

    rows.begin_pass()
    while entries := broker.run(read(ENTRIES_AT_ONCE, after=after)):
        rows.handle(entries, move, describe=lambda entry: (entry.id, entry.id, ""))
        after = entries[-1].id
    return moved


def move_in_turns(queues: Sequence[str], move: Callable[[Sequence[str], int], Collection[str]]) -> None:
    """Move what the streams of Redis queues contain, each a part at a time, so that none waits for a long one.

    `move` is given some of the queues and how many entries to read of each. It returns those that may have more; they
    have another turn until TICK_MAX_S have passed.
    """
    ends_at_s, remaining = clock.monotonic_s() + TICK_MAX_S, list(dict.fromkeys(queues))
    while remaining and clock.monotonic_s() < ends_at_s:
        parts = [remaining[start : start + QUEUES_MAX] for start in range(0, len(remaining), QUEUES_MAX)]
        remaining = [queue for part in parts for queue in move(part, max(READ_MAX // len(part), READ_MIN))]

"""Measure what waits in Redis's streams until maintenance writes it to the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import script

_STREAMS = {"audit": keys.AUDIT_STREAM, "deliveries": keys.DELIVERIES}
_EARLIEST_MS = 10**12
"""In 2001. Entries with earlier ids were not added by runqy: a worker can append any id to its queues' streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBacklog:
    """The entries of a stream, or of the streams of all queues."""

    stream: str
    entries: int
    age_s: float
    """The age of the oldest entry; 0 if there is none."""


def read_backlogs(queues: Sequence[str], *, now_ns: int) -> Request[list[StreamBacklog]]:
    """Return the backlog of each stream. Those of `history` and `ends` are sums over these Redis queues."""
    own = [QueueKeys.of(queue) for queue in queues]
    groups = {name: [stream] for name, stream in _STREAMS.items()}
    groups |= {"history": [queue.runs for queue in own], "ends": [queue.ends for queue in own]}

    def parse(replies: Sequence[Reply]) -> list[StreamBacklog]:
        found = ((reply[0], _age_s(reply[1], now_ns)) for reply in replies)
        return [_add_up(name, list(islice(found, len(streams)))) for name, streams in groups.items()]

    calls = tuple(script("read_backlog")(stream=stream) for streams in groups.values() for stream in streams)
    return Request(calls, parse)


def _add_up(name: str, streams: Sequence[tuple[int, float]]) -> StreamBacklog:
    entries, age_s = sum(count for count, _ in streams), max((age_s for _, age_s in streams), default=0.0)
    return StreamBacklog(stream=name, entries=entries, age_s=age_s)


def _age_s(entry_id: bytes | None, now_ns: int) -> float:
    """Return the age of an entry, whose id begins with the time in ms at which it was added; 0 if it begins with
    another number.
    """
    if not entry_id:
        return 0.0
    added_ms = int(entry_id.partition(b"-")[0])
    is_time = added_ms >= _EARLIEST_MS
    return max(now_ns // 1_000_000 - added_ms, 0) / 1000 if is_time else 0.0

"""Buffer records in Redis until maintenance writes them to the database: deliveries of secrets, uses of API keys."""

from collections.abc import Sequence
from itertools import pairwise

from runqy.broker import keys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import command, script
from runqy.broker.streams.entries import StreamEntry, delete_entries, read_entries

MAX_DELIVERIES = 50_000
"""About 20 MB. At the limit no secrets are delivered: the record would be the only trace of a delivery."""
_MAX_DELIVERY_BYTES = 1 << 20


def record_delivery(content: bytes) -> Request[bool]:
    """Record a delivery; return False if the buffer is full. A delivery that is recorded twice is stored once.

    A Redis without free memory accepts it, because workers have to come back to drain it.
    """
    call = script("record_delivery")(deliveries=keys.DELIVERIES, limit=MAX_DELIVERIES, content=content)
    return Request((call,), lambda replies: replies[0] == 1, is_repeatable=True)


def read_deliveries(limit: int, *, after: str = "") -> Request[list[StreamEntry]]:
    return read_entries(keys.DELIVERIES, limit, max_bytes=_MAX_DELIVERY_BYTES, after=after)


def delete_deliveries(ids: Sequence[str]) -> Request[None]:
    return delete_entries(keys.DELIVERIES, ids)


def record_key_use(key_id: str, *, now_s: int) -> Request[None]:
    return Request((command("HSET", keys.KEY_USES, key_id, now_s, key=keys.KEY_USES),), lambda _: None)


def read_key_uses() -> Request[dict[str, int]]:
    return Request((command("HGETALL", keys.KEY_USES, key=keys.KEY_USES),), _parse_key_uses)


def _parse_key_uses(replies: Sequence[Reply]) -> dict[str, int]:
    """Parse an HGETALL reply, a map or a flat list, without invalid entries."""
    reply = replies[0]
    pairs = reply.items() if isinstance(reply, dict) else list(pairwise(reply))[::2]
    return {key_id.decode(): int(used_s) for key_id, used_s in pairs if _is_number(key_id) and _is_number(used_s)}


def _is_number(text: bytes) -> bool:
    """Return whether a text is a number no longer than ids and Unix times are."""
    return text.isdigit() and len(text) <= 11

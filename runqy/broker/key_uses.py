"""Keeps when API keys were last used, until the database is told."""

from collections.abc import Sequence
from itertools import pairwise

from runqy.broker import keys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import command


def note_use(key_id: str, *, now_s: int) -> Request[None]:
    """Store when a key was last used."""
    return Request((command("HSET", keys.KEY_USES, key_id, now_s, key=keys.KEY_USES),), lambda _: None)


def read_uses() -> Request[dict[str, int]]:
    """Return for each key, by its id, when it was last used."""
    return Request((command("HGETALL", keys.KEY_USES, key=keys.KEY_USES),), _parse_uses)


def _parse_uses(replies: Sequence[Reply]) -> dict[str, int]:
    """Read a HGETALL, which arrives as a map or as a flat list; what cannot be an id and a time is left out."""
    reply = replies[0]
    pairs = reply.items() if isinstance(reply, dict) else list(pairwise(reply))[::2]
    return {key_id.decode(): int(used_s) for key_id, used_s in pairs if _is_number(key_id) and _is_number(used_s)}


def _is_number(text: bytes) -> bool:
    """Tell whether a text is a number of a size that ids and Unix times have."""
    return text.isdigit() and len(text) <= 11

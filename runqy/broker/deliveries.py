"""Keeps notes of what secrets were handed out to whom, until the database is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.links import Reply
from runqy.broker.operation import Request
from runqy.broker.scripts import command, script

MOST_WAITING = 50_000
"""Some 20 MB. While as many wait, nothing more is handed out: a note that is dropped would be a secret's last trace."""


@dataclass(frozen=True, slots=True)
class Note:
    """What was noted, under the id that Redis gave it."""

    id: str
    content: bytes


def note_delivery(content: bytes) -> Request[bool]:
    """Note a delivery; returns whether there was room. A full Redis takes it: workers must come back to drain it."""
    call = script("note_delivery")(deliveries=keys.DELIVERIES, most=MOST_WAITING, content=content)
    return Request((call,), lambda replies: replies[0] == 1)


def read_deliveries(most: int) -> Request[list[Note]]:
    """Return the oldest notes."""
    read = command("XRANGE", keys.DELIVERIES, "-", "+", "COUNT", most, key=keys.DELIVERIES)
    return Request((read,), _parse)


def forget_deliveries(ids: Sequence[str]) -> Request[None]:
    """Drop notes that are in the database."""
    return Request((command("XDEL", keys.DELIVERIES, *ids, key=keys.DELIVERIES),), lambda _: None)


def _parse(replies: Sequence[Reply]) -> list[Note]:
    """Read a XRANGE; an entry that somebody else made may have any fields."""
    return [
        Note(note_id.decode(), dict(zip(f[::2], f[1::2], strict=True)).get(b"content", b""))
        for note_id, f in replies[0]
    ]

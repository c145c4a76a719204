"""Walks the whole key space in small steps that never end: one SCAN a node and step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runqy.broker.links import Link, checked
from runqy.broker.scripts import command

if TYPE_CHECKING:
    from runqy.broker.broker import Broker


class KeyWalk:
    """A walk over the keys that match a pattern. It goes round and round, and meets each key in every round."""

    def __init__(self, pattern: str, step: int, kind: str = "hash") -> None:
        """Take the pattern, about how many keys to look at in a step, and the type of the keys; empty: any."""
        self._pattern = pattern
        self._step = step
        self._kind = ("TYPE", kind) if kind else ()
        self._cursors: dict[str, int] = {}  # node -> where to go on; nodes that were walked to their end are missing

    def next_keys(self, broker: Broker) -> list[str]:
        """Return the matching keys of the next step on every node that is not at its end."""
        links = broker.link.nodes()
        if self.is_at_start:
            self._cursors = dict.fromkeys(links, 0)
        found: list[str] = []
        for name in self._cursors.keys() & links.keys():
            found += self._step_on(name, links[name])
        self._cursors = {name: cursor for name, cursor in self._cursors.items() if cursor and name in links}
        return found

    def _step_on(self, name: str, link: Link) -> list[str]:
        """Go one step further on one node; a cursor of 0 is its end."""
        place = ("MATCH", self._pattern, "COUNT", self._step, *self._kind)
        scan = command("SCAN", self._cursors[name], *place, key=None)
        cursor, names = checked(link.execute([scan])[0])
        self._cursors[name] = int(cursor)
        return [name.decode(errors="replace") for name in names]

    @property
    def is_at_start(self) -> bool:
        """Tell whether every node has been walked to its end, so that the next step starts a new round."""
        return not self._cursors

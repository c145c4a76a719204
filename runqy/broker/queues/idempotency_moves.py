"""Move idempotency records to the new names of Redis queues, so that a repeated request creates no second task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import Request
from runqy.broker.replies import Reply
from runqy.broker.scanning import KeyScanner
from runqy.broker.scripts import command, script

_PREFIX = QueueKeys("*").created("*")


def move_idempotency_records(broker: Broker, renamed: Mapping[str, str]) -> int:
    """Move the records of Redis queues to their new names, in one scan of all keys; return how many.

    A record that exists there is kept. Raise BrokerUnavailable.
    """
    scanner, moved = KeyScanner(_PREFIX, step=1000), 0
    sources = {QueueKeys(source).created(""): source for source in renamed}
    while True:
        for key in scanner.next_keys(broker):
            prefix, _, scope = key.rpartition(":")
            if source := sources.get(f"{prefix}:"):
                moved += _move_record(broker, key, QueueKeys(renamed[source]).created(scope))
        if scanner.is_at_start:
            return moved


def _move_record(broker: Broker, key: str, target: str) -> int:
    """Copy a record with its time to live, and delete it then."""
    ttl_ms, fields = broker.run(_read_record(key))
    if fields and ttl_ms > 0:
        store = script("store_record")(record=target, ttl_ms=ttl_ms, fields=fields)
        broker.run(Request((store,), lambda _: None, is_repeatable=True))
    return broker.run(Request((command("UNLINK", key, key=key),), _first))


def _read_record(key: str) -> Request[tuple[int, list[bytes]]]:
    """Return the time to live of a record in ms, and its fields and values."""

    def parse(replies: Sequence[Reply]) -> tuple[int, list[bytes]]:
        flat = replies[1]
        return replies[0], [part for pair in flat.items() for part in pair] if isinstance(flat, dict) else flat

    return Request((command("PTTL", key, key=key), command("HGETALL", key, key=key)), parse, is_bulky=True)


def _first(replies: Sequence[Reply]) -> int:
    return int(replies[0])

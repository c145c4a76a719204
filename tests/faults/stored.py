"""Looks at what a Redis holds of tasks: each whole, or nothing of it."""

from collections import Counter
from collections.abc import Iterable, Sequence

import redis as redis_py

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from tests.faults.producers import QUEUE

KEYS = QueueKeys(QUEUE)


def check_tasks(accepted: Iterable[str], *nodes: redis_py.Redis, allows_lookups: bool = False) -> None:
    """Check that every accepted task is pending exactly once, and that no task is incomplete.

    `allows_lookups`: those of tasks that were never created may be left, for the sweep to find.
    """
    pending = Counter(found.decode() for node in nodes for found in read_pending(node))
    hashes = _names(nodes, KEYS.task_prefix)
    lookups = _names(nodes, keys.lookup(""))

    assert set(pending.values()) <= {1}, f"queued twice: {pending.most_common(3)}"
    assert pending.keys() == hashes
    assert hashes <= lookups
    assert allows_lookups or hashes == lookups, f"{len(lookups - hashes)} lookups have no task"
    lost = set(accepted) - hashes
    assert not lost, f"{len(lost)} accepted tasks are lost"


def read_pending(node: redis_py.Redis) -> list[bytes]:
    """Return the ids of those tasks that wait on this node; it may be another one's queue."""
    try:
        return node.lrange(KEYS.pending, 0, -1)  # type: ignore[no-any-return]
    except redis_py.exceptions.MovedError:
        return []


def _names(nodes: Sequence[redis_py.Redis], prefix: str) -> set[str]:
    """Return what follows a prefix in keys."""
    pattern = prefix.replace("[", r"\[") + "*"
    return {
        key.decode().removeprefix(prefix)
        for node in nodes
        for key in node.scan_iter(pattern, count=1000)
        if b":" not in key.removeprefix(prefix.encode())
    }

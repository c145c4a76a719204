"""Transactions that write the history, kept short: SQLite has one writer at a time, and others wait for it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection, transaction

from runqy import clock

TARGET_S = {"sqlite": 0.02, "postgresql": 0.2}
"""How long a transaction should take. On PostgreSQL only those wait that write the same rows."""
MIN_ROWS, MAX_ROWS = 50, 1000
"""Fewer rows take hardly less time: a transaction costs as much as some twenty."""


@dataclass(slots=True)
class WriteTransaction:
    """A transaction, and for how long it held its locks."""

    held_s: float = 0.0


@contextmanager
def write_transaction() -> Iterator[WriteTransaction]:
    """Run a transaction, and measure it from when SQLite's write lock is taken.

    Python's garbage collector is paused: a full collection takes longer than everything else in a transaction.
    """
    written = WriteTransaction()
    with _paused_garbage_collection():
        with transaction.atomic():
            began_s = clock.monotonic_s()
            yield written
        written.held_s = clock.monotonic_s() - began_s


def checkpoint() -> None:
    """Copy SQLite's write-ahead log to the database file, while others may write; PostgreSQL does so by itself.

    A commit that finds a long log does it too, which takes longer than the transaction. So code that writes much calls
    this between transactions, and `wal_autocheckpoint` in the settings is for the others.
    """
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause it in all threads; where several do so, until the first one ends."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(slots=True)
class BatchSize:
    """How many rows are written in a transaction, adapted to how long the last ones took."""

    value: int = 100

    def adapt(self, count: int, held_s: float) -> None:
        """Consider a transaction that wrote `count` rows."""
        target_s = TARGET_S.get(connection.vendor, 0.02)
        if held_s > target_s:
            self.value = max(int(count * target_s / held_s), self.value // 4, MIN_ROWS)
        elif count >= self.value and held_s < target_s / 2:
            self.value = min(self.value * 2, MAX_ROWS)

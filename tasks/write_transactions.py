"""Transactions that write the history. They are short, because SQLite has one writer at a time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection, transaction

from runqy import clock

TARGET_S = {"sqlite": 0.02, "postgresql": 0.2}
"""How long a transaction should take. On PostgreSQL only writers of the same rows wait for it."""
MIN_ROWS, MAX_ROWS = 50, 1000
"""Fewer rows take hardly less time: a transaction costs as much as some twenty rows."""


@dataclass(slots=True)
class WriteTransaction:
    """A transaction, and how long it held its locks."""

    held_s: float = 0.0


@contextmanager
def write_transaction() -> Iterator[WriteTransaction]:
    """Run a transaction, and measure it from when SQLite takes its write lock."""
    written = WriteTransaction()
    # A full collection takes longer than everything else in a transaction.
    with _paused_garbage_collection():
        with transaction.atomic():
            began_s = clock.monotonic_s()
            yield written
        written.held_s = clock.monotonic_s() - began_s


def checkpoint() -> None:
    """Copy SQLite's write-ahead log to the database file, while others may write. PostgreSQL does this by itself.

    A commit that finds a long log copies it too, which takes longer than the transaction. So code that writes much
    calls this between transactions; `wal_autocheckpoint` in the settings is for other writers.
    """
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause garbage collection in all threads. If several threads do so, the first one to end resumes it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(slots=True)
class BatchSize:
    """How many rows to write in a transaction, adapted to the duration of the last ones."""

    value: int = 100

    def adapt(self, count: int, held_s: float) -> None:
        """Adapt to a transaction that wrote `count` rows."""
        target_s = TARGET_S.get(connection.vendor, 0.02)
        if held_s > target_s:
            self.value = max(int(count * target_s / held_s), self.value // 4, MIN_ROWS)
        elif count >= self.value and held_s < target_s / 2:
            self.value = min(self.value * 2, MAX_ROWS)

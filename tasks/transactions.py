"""Short transactions for what writes the history and ends of tasks, and a time limit for what searches the history.

Writes are short because SQLite has one writer at a time.
"""

import gc
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

from runqy import clock
from runqy.errors import SearchTooSlow

T = TypeVar("T")

TARGET_S = {"sqlite": 0.02, "postgresql": 0.2}
"""How long a transaction should take. On PostgreSQL only writers of the same rows wait for it."""
MIN_ROWS, MAX_ROWS = 50, 1000
"""Fewer rows take hardly less time: a transaction costs as much as some twenty rows."""
MAX_SEARCH_S = 3.0
_STEPS = 100_000
"""SQLite calls the progress handler after this many steps of its virtual machine: a few milliseconds."""
REFUSALS = (DataError, IntegrityError, ValueError, OverflowError)
"""The errors of the database for values that it cannot store: too long, out of range, or with a NUL."""


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


def store_or_drop(
    records: Sequence[T], store: Callable[[Sequence[T]], int], drop: Callable[[T, Exception], None]
) -> int:
    """Store records together. If the database refuses them, store each half, and drop the single records that it
    refuses twice: at first they may have referred to a row that was deleted meanwhile.
    """
    try:
        return store(records)
    except REFUSALS:
        if len(records) == 1:
            return _store_again_or_drop(records, store, drop)
    middle = len(records) // 2
    return store_or_drop(records[:middle], store, drop) + store_or_drop(records[middle:], store, drop)


def _store_again_or_drop(
    records: Sequence[T], store: Callable[[Sequence[T]], int], drop: Callable[[T, Exception], None]
) -> int:
    try:
        return store(records)
    except REFUSALS as error:
        drop(records[0], error)
        return 0


@contextmanager
def search_limit() -> Iterator[None]:
    """Limit each statement of the block to MAX_SEARCH_S. Raise SearchTooSlow."""
    limited = _limit_postgresql if connection.vendor == "postgresql" else _limit_sqlite
    try:
        with limited():
            yield
    except OperationalError as error:
        cause = error.__cause__
        is_interrupted = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
        if is_interrupted or isinstance(cause, QueryCanceled):
            raise SearchTooSlow from error
        raise


@contextmanager
def _limit_postgresql() -> Iterator[None]:
    with transaction.atomic(), connection.cursor() as cursor:
        # `true`: for this transaction only, so that the connection keeps no limit.
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{MAX_SEARCH_S * 1000:.0f}"])
        yield


@contextmanager
def _limit_sqlite() -> Iterator[None]:
    connection.ensure_connection()
    until = clock.monotonic_s() + MAX_SEARCH_S
    connection.connection.set_progress_handler(lambda: clock.monotonic_s() > until, _STEPS)
    try:
        yield
    finally:
        connection.connection.set_progress_handler(None, 0)

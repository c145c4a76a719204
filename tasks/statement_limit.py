"""Limit the time that the database takes for a search of the history."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

from runqy import clock
from runqy.errors import SearchTooSlow

MAX_SEARCH_S = 3.0
_STEPS = 100_000
"""SQLite calls the progress handler after this many steps of its virtual machine: a few milliseconds."""


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

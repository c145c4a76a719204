"""The backend: no thread waits for ever for a server that does not respond, and only a few wait at all.

libpq limits connecting (connect_timeout) and how long a lost peer goes unnoticed (tcp_user_timeout, keepalives). The
server limits statements (statement_timeout). That leaves a server, or a proxy in front of it, that accepts everything
and sends nothing: a `ReplyWatchdog` ends such connections. Whichever of them found the server silent, a circuit breaker
then refuses all use of the database in this process, until the server responds again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import psycopg
from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

from runqy import clock
from runqy.concurrency.bulkhead import Bulkhead, BulkheadFull
from runqy.concurrency.circuit_breaker import SLOW_S, CircuitBreaker, CircuitOpen
from runqy.postgresql.watchdog import ReplyWatchdog

STATEMENT_TIMEOUT_OPTION = "statement_timeout_s"
"""A key of OPTIONS in Django's settings: how long a statement may take; 0: unlimited."""
GRACE_S = 2.0
"""How much longer than a statement the server may take to report that it took too long."""
MAX_PROBING = 2
"""How many threads may connect or check a connection at the same time."""


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection on which no wait is endless."""

    _breaker: ClassVar = CircuitBreaker((psycopg.OperationalError,))
    _bulkhead: ClassVar = Bulkhead(MAX_PROBING)
    _watchdog: ClassVar = ReplyWatchdog()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.statement_timeout_s: int = self.settings_dict["OPTIONS"].get(STATEMENT_TIMEOUT_OPTION, 0)
        self.execute_wrappers.append(self._execute_limited)

    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        params.pop(STATEMENT_TIMEOUT_OPTION, None)
        if self.statement_timeout_s:
            given = params.get("options", "")
            params["options"] = f"-c statement_timeout={self.statement_timeout_s * 1000} {given}".rstrip()
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        with self._probing():
            return super().get_new_connection(conn_params)

    def init_connection_state(self) -> None:
        with self.limited():
            super().init_connection_state()

    def make_cursor(self, cursor: Any) -> CursorWrapper:
        # Each fetch of a server-side cursor is a request to the server, and limited too.
        return _LimitedCursor(cursor, self) if isinstance(cursor, psycopg.ServerCursor) else super().make_cursor(cursor)

    def is_usable(self) -> bool:
        """Return whether the server responds on this connection, within the time in which it must accept a new one."""
        return self._check() is True

    def commit(self) -> None:
        with self.limited():
            super().commit()

    def rollback(self) -> None:
        with self.limited():
            super().rollback()

    def prepare_database(self) -> None:
        """Prepare for migrations, whose statements take as long as they take."""
        super().prepare_database()
        self.statement_timeout_s = 0
        with self.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Limit how long the block waits for replies. Raise OperationalError if the server was found silent."""
        if self._breaker.is_open and self._check() is None:
            with self.wrap_database_errors:
                raise _found_silent()
        connection, began_s = self.connection, clock.monotonic_s()
        try:
            with self._watchdog.limit(connection, self._statement_limit_s()):
                yield
        finally:
            is_lost = connection is not None and connection.broken
            # A connection that is lost quickly was refused or closed, which is no silence.
            if is_lost and clock.monotonic_s() - began_s >= SLOW_S:
                self._breaker.open()

    def _check(self) -> bool | None:
        """Return whether the connection can be used, which it cannot in a failed transaction; None if the server did
        not respond.

        A connection that was lost or closed before says nothing about the server, and leaves the circuit as it is.
        """
        connection = self.connection
        if connection is None or connection.closed:
            return None
        try:
            with self._probing(), self._watchdog.limit(connection, self._response_timeout_s()):
                is_usable = super().is_usable()
                if connection.closed:
                    raise psycopg.OperationalError("PostgreSQL did not respond.")
                return is_usable
        except psycopg.OperationalError:
            return None

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Let the block find out whether the server responds: few at a time, and only one if it was found silent.

        Raise psycopg.OperationalError.
        """
        try:
            with self._breaker.calling(), self._bulkhead.enter():
                yield
        except (CircuitOpen, BulkheadFull) as error:
            raise _found_silent() from error

    def _execute_limited(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        with self.limited():
            return execute(sql, params, many, context)

    def _statement_limit_s(self) -> float:
        """Return how long the reply to a statement may take; 0: unlimited."""
        return self.statement_timeout_s + GRACE_S if self.statement_timeout_s else 0

    def _response_timeout_s(self) -> float:
        """Return how long the reply to a check of the connection may take. It needs neither a table nor a lock."""
        return int(self.settings_dict["OPTIONS"].get("connect_timeout", 0)) or self._statement_limit_s()


class _LimitedCursor(CursorWrapper):
    db: DatabaseWrapper

    def fetchmany(self, *args: Any) -> Any:
        with self.db.limited(), self.db.wrap_database_errors:
            return self.cursor.fetchmany(*args)

    def close(self) -> None:
        with nullcontext() if self.cursor.connection.closed else self.db.limited():
            self.cursor.close()


def _found_silent() -> psycopg.OperationalError:
    return psycopg.OperationalError("PostgreSQL cannot be reached: it did not respond a moment ago.")

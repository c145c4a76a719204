"""The backend: no thread waits for ever for a server that does not respond.

libpq limits connecting (connect_timeout) and how long a lost peer goes unnoticed (tcp_user_timeout, keepalives). The
server limits statements (statement_timeout). That leaves a server, or a proxy in front of it, that accepts everything
and sends nothing: a `ReplyWatchdog` ends connections on which a reply is overdue. The thread that has waited does not
wait again at once.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, ClassVar

import psycopg
from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

from runqy import clock

CHECK_EVERY_S = 0.5
STATEMENT_TIMEOUT_OPTION = "statement_timeout_s"
"""A key of OPTIONS in Django's settings: how long a statement may take; 0: unlimited."""
GRACE_S = 2.0
"""How much longer than a statement the server may take to report that it took too long."""
SILENT_S = 0.5
"""A connection that is lost sooner was refused or closed, which is no silence."""
SPARED_S = 1.0
"""How long a thread that has waited in vain does not connect: a request waits for its check or a connection once."""


class ReplyWatchdog:
    """Shuts down the sockets of connections that wait too long, on one thread for the whole process.

    That wakes the waiting thread, which gets the error of a lost connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # When the reply is overdue, for each connection on which one is awaited.
        self._waiting: dict[object, tuple[float, psycopg.Connection[Any]]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, connection: "psycopg.Connection[Any] | None", timeout_s: float) -> Iterator[None]:
        """Let the block wait for replies on a connection no longer than `timeout_s`; 0: unlimited."""
        if connection is None or not timeout_s:
            yield
            return
        token = object()
        with self._lock:
            self._waiting[token] = time.monotonic() + timeout_s, connection
            if self._thread is None or not self._thread.is_alive():  # a forked process has no threads of its parent
                self._thread = threading.Thread(target=self._run, name="runqy-postgresql", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[token]

    def _run(self) -> None:
        while True:
            time.sleep(CHECK_EVERY_S)
            with self._lock:  # held until all are shut down: none of them can be in use by another caller meanwhile
                now_s = time.monotonic()
                for due_s, connection in self._waiting.values():
                    if now_s >= due_s:
                        _shut_down(connection)


def _shut_down(connection: "psycopg.Connection[Any]") -> None:
    # A duplicate of the descriptor: libpq keeps its own, and closing this one closes nothing.
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection on which no wait is endless."""

    _watchdog: ClassVar = ReplyWatchdog()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.statement_timeout_s: int = self.settings_dict["OPTIONS"].get(STATEMENT_TIMEOUT_OPTION, 0)
        self._silent_at_s = float("-inf")
        self.execute_wrappers.append(self._execute_limited)

    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        params.pop(STATEMENT_TIMEOUT_OPTION, None)
        if self.statement_timeout_s:
            given = params.get("options", "")
            params["options"] = f"-c statement_timeout={self.statement_timeout_s * 1000} {given}".rstrip()
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        began_s = clock.monotonic_s()
        if began_s - self._silent_at_s < SPARED_S:
            raise psycopg.OperationalError("PostgreSQL cannot be reached: it did not respond a moment ago.")
        try:
            return super().get_new_connection(conn_params)
        except psycopg.OperationalError:
            self._record_loss(began_s)
            raise

    def init_connection_state(self) -> None:
        with self.limited():
            super().init_connection_state()

    def make_cursor(self, cursor: Any) -> CursorWrapper:
        # Each fetch of a server-side cursor is a request to the server, and limited too.
        return _LimitedCursor(cursor, self) if isinstance(cursor, psycopg.ServerCursor) else super().make_cursor(cursor)

    def is_usable(self) -> bool:
        """Return whether the server responds on this connection, within the time in which it must accept a new one."""
        with self._limited(self._response_timeout_s()):
            return super().is_usable()

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
        """Limit how long the block waits for the replies to statements."""
        with self._limited(self._statement_limit_s()):
            yield

    @contextmanager
    def _limited(self, timeout_s: float) -> Iterator[None]:
        connection, began_s = self.connection, clock.monotonic_s()
        try:
            with self._watchdog.limit(connection, timeout_s):
                yield
        finally:
            if connection is not None and connection.broken:
                self._record_loss(began_s)

    def _record_loss(self, began_s: float) -> None:
        now_s = clock.monotonic_s()
        if now_s - began_s >= SILENT_S:
            self._silent_at_s = now_s

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

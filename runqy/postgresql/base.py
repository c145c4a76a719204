"""The backend: no thread waits without end for a server that does not respond.

libpq bounds connecting (connect_timeout) and noticing a lost peer (tcp_user_timeout, keepalives), the server bounds
statements (statement_timeout). That leaves a server, or a proxy before it, that accepts everything and sends nothing: a
`ReplyWatchdog` ends the connection then.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import psycopg
from django.db import OperationalError
from django.db.backends.postgresql import base

from runqy.circuit_breaker import CircuitBreaker, CircuitOpen
from runqy.postgresql.watchdog import ReplyWatchdog

STATEMENT_TIMEOUT_OPTION = "statement_timeout_s"
"""Of the OPTIONS in Django's settings: how long a statement may take; 0: unlimited."""
GRACE_S = 2.0
"""How much longer the server may take to report that a statement took too long."""


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection on which no wait is endless."""

    _breaker: ClassVar = CircuitBreaker((psycopg.OperationalError,))
    _watchdog: ClassVar = ReplyWatchdog()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.statement_timeout_s: int = self.settings_dict["OPTIONS"].get(STATEMENT_TIMEOUT_OPTION, 0)
        self.execute_wrappers.append(self._execute_limited)

    def get_connection_params(self) -> dict[str, Any]:
        """Add the limit of statements to what is sent at the start of a session."""
        params = super().get_connection_params()
        params.pop(STATEMENT_TIMEOUT_OPTION, None)
        if self.statement_timeout_s:
            given = params.get("options", "")
            params["options"] = f"-c statement_timeout={self.statement_timeout_s * 1000} {given}".rstrip()
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, unless another thread just found that it takes too long. Raise OperationalError."""
        try:
            return self._breaker.call(lambda: super(DatabaseWrapper, self).get_new_connection(conn_params))
        except CircuitOpen as error:
            raise OperationalError("PostgreSQL cannot be reached: it did not respond a moment ago.") from error

    def init_connection_state(self) -> None:
        with self._limited():
            super().init_connection_state()

    def is_usable(self) -> bool:
        with self._limited():
            return super().is_usable()

    def commit(self) -> None:
        with self._limited():
            super().commit()

    def rollback(self) -> None:
        with self._limited():
            super().rollback()

    def prepare_database(self) -> None:
        """Prepare for migrations: their statements take as long as they take."""
        super().prepare_database()
        self.statement_timeout_s = 0
        with self.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")

    def _execute_limited(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        with self._limited():
            return execute(sql, params, many, context)

    def _limited(self) -> Any:
        timeout_s = self.statement_timeout_s
        return self._watchdog.limit(self.connection, timeout_s + GRACE_S if timeout_s else 0)

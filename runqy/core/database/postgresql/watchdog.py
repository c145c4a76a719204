"""Ends connections to PostgreSQL on which a reply is overdue."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

CHECK_EVERY_S = 0.5


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

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
    """Shuts down the sockets of connections that wait too long, on one thread for all of a process.

    The thread that waits is woken by that, and gets the error of a lost connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[object, tuple[float, psycopg.Connection[Any]]] = {}
        """When the reply is overdue, for each connection on which one is awaited."""
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, connection: "psycopg.Connection[Any] | None", timeout_s: float) -> Iterator[None]:
        """Let the block wait for replies on a connection no longer than `timeout_s`; 0: for as long as it takes."""
        if connection is None or not timeout_s:
            yield
            return
        token = object()
        with self._lock:
            self._waiting[token] = time.monotonic() + timeout_s, connection
            if self._thread is None or not self._thread.is_alive():  # a fork leaves it behind
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
            with self._lock:  # while it is held, none of the connections is given to another user
                now_s = time.monotonic()
                for due_s, connection in self._waiting.values():
                    if now_s >= due_s:
                        _shut_down(connection)


def _shut_down(connection: "psycopg.Connection[Any]") -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)

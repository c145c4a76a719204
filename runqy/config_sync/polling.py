"""Read newer configuration from the database in every web process, so that a revocation does not depend on Redis.

It runs on its own thread with its own connection, so that a slow database delays nothing else.
"""

import os
import threading
import time

import structlog
from django.db import Error, connections

from runqy import clock
from runqy.config_sync.snapshot import get_cache

POLL_EVERY_S = 1.0
REACHABLE_S = 3 * POLL_EVERY_S
"""How long after an answer the database counts as reachable: while it hangs, nothing else waits for it."""

log = structlog.get_logger()

_lock = threading.Lock()
_poller: "DatabasePoller | None" = None


def ensure_started() -> None:
    """Start polling in this process if it is not running. A forked child starts its own thread."""
    global _poller  # noqa: PLW0603 (a process has one)
    if _poller is not None and _poller.pid == os.getpid():
        return
    with _lock:
        if _poller is None or _poller.pid != os.getpid():
            _poller = DatabasePoller()
            _poller.start()


def is_database_reachable() -> bool:
    """Return whether the database has just answered the polling of this process."""
    return _poller is not None and clock.monotonic_s() - _poller.read_at_s < REACHABLE_S


class DatabasePoller(threading.Thread):
    """Reads what was committed since the last poll, once a second."""

    def __init__(self) -> None:
        super().__init__(name="runqy-database-poller", daemon=True)
        self.pid = os.getpid()
        self._is_failing = False
        self.read_at_s = float("-inf")

    def run(self) -> None:
        """Poll until the process exits."""
        while True:
            try:
                self.poll()
            except Exception:  # this loop must not end
                log.exception("background_task_failed", task=self.name)
            time.sleep(POLL_EVERY_S)

    def poll(self) -> None:
        """Read once. The connection is closed only after an error."""
        try:
            get_cache().read_database()
        except Error as error:
            connections.close_all()
            if not self._is_failing:
                log.warning("configuration_not_read_from_database", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False
            self.read_at_s = clock.monotonic_s()

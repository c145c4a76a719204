"""Takes what is newer from the database, in every web process, so that a revocation does not depend on Redis.

A thread of its own does it, with a connection of its own: a database that hangs delays nothing else.
"""

import os
import threading
import time

import structlog
from django.db import Error, connections

from runqy.publication.snapshot import get_cache

POLL_EVERY_S = 1.0

log = structlog.get_logger()

_lock = threading.Lock()
_poller: "DatabasePoller | None" = None


def ensure_started() -> None:
    """Start polling in this process unless it does; after a fork the child starts its own."""
    global _poller  # noqa: PLW0603 (a process has one)
    if _poller is not None and _poller.pid == os.getpid():
        return
    with _lock:
        if _poller is None or _poller.pid != os.getpid():
            _poller = DatabasePoller()
            _poller.start()


class DatabasePoller(threading.Thread):
    """Reads what was committed since the last time, once a second."""

    def __init__(self) -> None:
        super().__init__(name="runqy-database-poller", daemon=True)
        self.pid = os.getpid()
        self._is_failing = False

    def run(self) -> None:
        """Poll as long as the process lives."""
        while True:
            try:
                self.poll()
            except Exception:  # the supervisor of a loop that must not end
                log.exception("background_task_failed", task=self.name)
            time.sleep(POLL_EVERY_S)

    def poll(self) -> None:
        """Read once. The connection is kept, unless there was an error."""
        try:
            get_cache().read_database()
        except Error as error:
            connections.close_all()
            if not self._is_failing:
                log.warning("configuration_not_read_from_database", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False

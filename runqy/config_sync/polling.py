"""The threads of a web or maintenance process that read newer configuration, so that no request waits for a store."""

import os
import threading
import time
from collections.abc import Callable

import structlog

from runqy import clock

POLL_EVERY_S = 1.0
HANGS_AFTER_S = 1.2
"""How long the database may hang before Redis is read instead."""
CHECK_EVERY_S = 0.3
PROPAGATION_S = HANGS_AFTER_S + CHECK_EVERY_S
"""How long after its publication a change is known to every process that reaches either store."""

log = structlog.get_logger()


class Poller:
    """Reads the database once a second and, while that hangs, Redis on another thread.

    While the database fails instead of hanging, `refresh` itself reads Redis.
    """

    def __init__(self, *, refresh: Callable[[], None], read_redis: Callable[[], None]) -> None:
        self.pid = os.getpid()
        self._refresh, self._read_redis = refresh, read_redis
        self._changed = threading.Condition()
        self._is_requested = False
        # The time at which the latest read that has ended began.
        self._read_at_s = float("-inf")
        self._refreshed_at_s = clock.monotonic_s()

    def start(self) -> None:
        for function in (self._poll, self._watch):
            threading.Thread(target=function, name=f"runqy-configuration{function.__name__}", daemon=True).start()

    def wait_for_read(self, wait_s: float) -> None:
        """Request a read at once, and wait at most `wait_s` for one that began after this call."""
        requested_at_s = clock.monotonic_s()
        with self._changed:
            self._is_requested = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._read_at_s >= requested_at_s, wait_s)

    def _poll(self) -> None:
        while True:
            self._read(self._refresh)
            self._refreshed_at_s = clock.monotonic_s()
            with self._changed:
                self._changed.wait_for(lambda: self._is_requested, POLL_EVERY_S)
                self._is_requested = False

    def _watch(self) -> None:
        while True:
            time.sleep(CHECK_EVERY_S)
            if clock.monotonic_s() - self._refreshed_at_s > HANGS_AFTER_S:
                self._read(self._read_redis)

    def _read(self, read: Callable[[], None]) -> None:
        began_at_s = clock.monotonic_s()
        try:
            read()
        except Exception:  # these loops must not end
            log.exception("background_task_failed", task=threading.current_thread().name)
        with self._changed:
            # The other thread's read may have begun later and ended first.
            self._read_at_s = max(self._read_at_s, began_at_s)
            self._changed.notify_all()

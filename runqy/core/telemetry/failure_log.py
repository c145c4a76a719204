"""Log a failure that repeats: at once, then with its count at growing intervals, and when it ends."""

import threading
from dataclasses import dataclass
from typing import Any

import structlog

from runqy import clock

FIRST_INTERVAL_S = 60.0
MAX_INTERVAL_S = 3600.0
MAX_KEYS = 50
"""How many different failures are remembered. Beyond this, the oldest is forgotten, and logged again if it repeats."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Repeated:
    """A failure that was logged."""

    due_s: float
    """When it is logged again, if it repeats."""
    interval_s: float = FIRST_INTERVAL_S
    times: int = 1


class FailureLog:
    """Logs the failures of an operation that is retried until it succeeds."""

    def __init__(self, ended_event: str, **members: object) -> None:
        """`ended_event` is logged when the operation succeeds again. `members` are part of every log entry."""
        self._ended_event = ended_event
        self._members = members
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, str], _Repeated] = {}
        self._since_s = 0.0
        self._times = 0

    def record(self, event: str, /, *, key: str, exc_info: Exception | None = None, **members: object) -> None:
        """Log a failure with these members, unless one with the same event and key was logged recently.

        `exc_info` is an unexpected error. It is logged with its traceback.
        """
        with self._lock:
            repetition = self._count(event, key)
        if repetition is None:
            return
        write = _log.warning if exc_info is None else _log.error
        error: dict[str, Any] = {} if exc_info is None else {"exc_info": exc_info}
        write(event, **self._members, **members, **repetition, **error)

    def record_success(self) -> None:
        """Log that the failures have ended, if there were any."""
        if not self._times:  # spares the hot path the lock; another thread may be the first to take it
            return
        with self._lock:
            times, self._times = self._times, 0
            self._failures.clear()
        if not times:
            return
        after_s = round(clock.monotonic_s() - self._since_s, 1)
        _log.info(self._ended_event, **self._members, failures=times, after_s=after_s)

    def _count(self, event: str, key: str) -> dict[str, int] | None:
        """Count a failure. Return log members about its repetition; None if it is not logged now."""
        now_s = clock.monotonic_s()
        if not self._times:
            self._since_s = now_s
        self._times += 1
        failure = self._failures.get((event, key))
        if failure is None:
            if len(self._failures) == MAX_KEYS:
                del self._failures[next(iter(self._failures))]
            self._failures[event, key] = _Repeated(due_s=now_s + FIRST_INTERVAL_S)
            return {}
        failure.times += 1
        if now_s < failure.due_s:
            return None
        failure.interval_s = min(failure.interval_s * 2, MAX_INTERVAL_S)
        failure.due_s = now_s + failure.interval_s
        return {"times": failure.times}

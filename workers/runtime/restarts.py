"""Owns how long a child that ended unasked stays down."""

from collections.abc import Callable

from workers.runtime.backoff import delay_s
from workers.runtime.settings import RecoverySettings


class Restarts:
    """Counts the ends of a child that nobody asked for."""

    def __init__(self, settings: RecoverySettings, on_failure: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._failures = 0

    def note_success(self) -> None:
        """Forget the failures: the child did its work, or will run other code."""
        self._failures = 0

    def next_delay_s(self) -> float | None:
        """Count a failure and return the wait before the next start; None: there is none."""
        self._on_failure()
        settings = self._settings
        if not settings.is_enabled:
            return None
        if settings.max_restarts and self._failures >= settings.max_restarts:
            self._failures = 0
            return settings.cooldown_s
        self._failures += 1
        return delay_s(
            self._failures - 1,
            first_s=settings.initial_delay_s,
            most_s=settings.max_delay_s,
            factor=settings.backoff_factor,
        )

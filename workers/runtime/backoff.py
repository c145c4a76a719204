"""Delays before retries, and before a child that ended is restarted."""

import random
from collections.abc import Callable

from workers.runtime.settings import RecoverySettings

MAX_JITTER = 1.25


def delay_s(attempt: int, *, first_s: float, max_s: float, factor: float = 2.0) -> float:
    """Return the delay after attempt number `attempt` (from 0): exponential up to a limit, with a quarter of jitter."""
    # Without this limit of the exponent the power overflows a float after enough attempts.
    grown = first_s * factor ** min(attempt, 60)
    return min(grown, max_s) * random.uniform(0.75, MAX_JITTER)  # noqa: S311 (spreads load, hides nothing)


class RestartPolicy:
    """Counts the failures of a child and returns the delay before its restart."""

    def __init__(self, settings: RecoverySettings, on_failure: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._failures = 0

    @property
    def is_enabled(self) -> bool:
        return self._settings.is_enabled

    def record_success(self) -> None:
        """Reset the count: the child completed a task, or will run other code."""
        self._failures = 0

    def record_child_death(self) -> None:
        """Record that a child died while it ran a task. It restarts immediately, because the task may be the cause."""
        self._on_failure()

    def next_delay_s(self) -> float | None:
        """Count a failure. Return the delay before the restart, or None if the child is not restarted."""
        self._on_failure()
        settings = self._settings
        if not settings.is_enabled:
            return None
        if settings.max_restarts and self._failures >= settings.max_restarts:
            self._failures = 0  # after the cooldown, the delays are short again
            return settings.cooldown_s
        self._failures += 1
        return delay_s(
            self._failures - 1,
            first_s=settings.initial_delay_s,
            max_s=settings.max_delay_s,
            factor=settings.backoff_factor,
        )

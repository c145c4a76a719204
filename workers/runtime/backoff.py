"""How long to wait before the next attempt, and before a child that ended is restarted."""

import random
from collections.abc import Callable

from workers.runtime.settings import RecoverySettings


def delay_s(attempt: int, *, first_s: float, most_s: float, factor: float = 2.0) -> float:
    """Return the wait after attempt number `attempt` (from 0): exponential up to a limit, with a quarter of jitter."""
    grown = first_s * factor ** min(attempt, 60)
    return min(grown, most_s) * random.uniform(0.75, 1.25)  # noqa: S311 (spreads load, hides nothing)


class RestartPolicy:
    """Counts how often a child failed and returns the delay before its restart."""

    def __init__(self, settings: RecoverySettings, on_failure: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._failures = 0

    @property
    def is_enabled(self) -> bool:
        """Return whether children that ended are restarted."""
        return self._settings.is_enabled

    def note_success(self) -> None:
        """Reset the count: the child did its work, or will run other code."""
        self._failures = 0

    def note_death_under_task(self) -> None:
        """Report a child that died while it ran a task, which may be why: its replacement starts at once."""
        self._on_failure()

    def next_delay_s(self) -> float | None:
        """Count a failure and return the delay before the restart; None: there is no restart."""
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

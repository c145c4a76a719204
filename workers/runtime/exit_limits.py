"""When a worker process ends by itself: idle for too long, after a number of tasks, or at an age."""

import random
from collections.abc import Sequence

from runqy import clock
from runqy.core.formats.durations import humanize
from workers.runtime.settings import WorkerSettings

AGE_JITTER = 0.1
"""How much sooner than at `max_age` a worker may end: workers that were started together do not end together."""


class ExitLimits:
    """The limits of one process, for all its queues."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._started_s = self._active_s = clock.monotonic_ns() / 1e9
        self._taken = 0
        self._max_age_s = settings.max_age_s * random.uniform(1 - AGE_JITTER, 1)  # noqa: S311 (not for secrets)

    @property
    def are_any(self) -> bool:
        settings = self._settings
        return bool(settings.idle_exit_s or settings.max_tasks or settings.max_age_s)

    def find_reason(self, *, is_busy: bool, taken: Sequence[int]) -> str:
        """Return which limit the process has reached; empty if none.

        `is_busy` is whether one of its queues has tasks, or deploys or starts what runs them; `taken` how many tasks
        each queue has run.
        """
        now_s, settings = clock.monotonic_ns() / 1e9, self._settings
        # Tasks may have begun and ended since the last call.
        if is_busy or sum(taken) != self._taken:
            self._active_s, self._taken = now_s, sum(taken)
        if settings.max_tasks and max(taken, default=0) >= settings.max_tasks:
            return f"it has run {settings.max_tasks:,} tasks (RUNQY_MAX_TASKS)"
        if settings.max_age_s and now_s - self._started_s >= self._max_age_s:
            return f"it has run for {humanize(now_s - self._started_s)} (RUNQY_MAX_AGE)"
        if settings.idle_exit_s and now_s - self._active_s >= settings.idle_exit_s:
            return f"it was idle for {humanize(settings.idle_exit_s)} (RUNQY_IDLE_EXIT)"
        return ""

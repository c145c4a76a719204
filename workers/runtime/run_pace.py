"""How long the tasks of a queue run, which decides how many are held ahead of its children."""

import math
from collections.abc import Sequence

from runqy import clock
from workers.runtime.task_runs import Run

MAX_GAP = 0.05
"""The part of a mean run for which a child may wait for its next task. Where that takes longer, tasks are held ahead.
Otherwise none waits behind another while a child is free, of this worker or of another one."""
MIN_RUN_S = 1e-5
"""Shorter runs count as this long: about what a child takes for a task that does nothing. Of responses that are read
together, all but the first look as if they had taken no time."""
TURNS_AVERAGED = 8


class RunPace:
    """How long runs take, and how long a child waits for a task that its worker holds."""

    def __init__(self) -> None:
        # How long it takes from the end of a run until the worker has written what it holds to the child's pipe.
        self.turn_s = 0.0
        # A moving average, in which the last run counts half. Until the first one has ended, tasks count as long.
        self._mean_s = math.inf

    def record_run(self, spent_s: float) -> None:
        spent_s = max(spent_s, MIN_RUN_S)
        self._mean_s = spent_s if self._mean_s == math.inf else (self._mean_s + spent_s) / 2

    def record_turn(self, ended_s: float) -> None:
        """Record that what the end of a run caused is written now."""
        self.turn_s += (clock.monotonic_s() - ended_s - self.turn_s) / TURNS_AVERAGED

    def count_ahead(self, wait_s: float, *, slots: int, batches: Sequence[Sequence[Run]]) -> int:
        """Return how many tasks to hold ahead of slots that get their next task after `wait_s`.

        `batches` are those under way. None is held behind one that takes as long as tasks for which none would be held
        ahead.
        """
        # How many runs would fit into the time for which a free child waits too long.
        lateness = wait_s / self._mean_s - MAX_GAP
        if lateness <= 0:
            return 0
        long_since_s = clock.monotonic_s() - wait_s / MAX_GAP
        for batch in batches:
            slots -= batch[0].started_s < long_since_s
        return math.ceil(lateness * slots)

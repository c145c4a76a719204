"""Duty: put back tasks that a Go worker popped and lost."""

from runqy.broker.broker import Broker
from runqy.broker.orphans import OrphanSearch

STEPS_A_TICK = 5


class OrphanFinder:
    """Walks over all tasks, 5,000 keys a tick, while Go workers are registered."""

    name = "orphan_finder"
    interval_s = 10.0

    def __init__(self) -> None:
        self._search = OrphanSearch()

    def run_tick(self, broker: Broker) -> None:
        """Walk on, at most to the end of a round."""
        for _ in range(STEPS_A_TICK):
            self._search.run_step(broker)
            if self._search.is_round_complete:
                break

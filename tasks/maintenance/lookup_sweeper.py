"""Duty: remove lookups whose task is gone."""

from runqy.broker.broker import Broker
from runqy.broker.lookups import LookupSweep

STEPS_A_TICK = 5


class LookupSweeper:
    """Walks over all lookups, 5,000 keys a tick."""

    name = "lookup_sweeper"
    interval_s = 5.0

    def __init__(self) -> None:
        self._sweep = LookupSweep()

    def run_tick(self, broker: Broker) -> None:
        """Walk on, at most to the end of a round."""
        for _ in range(STEPS_A_TICK):
            self._sweep.run_step(broker)
            if self._sweep.is_round_complete:
                break

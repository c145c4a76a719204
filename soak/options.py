"""The command line's options, shared by all parts."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a run."""

    seed: int
    minutes: float | None = None
    """Of the parts that last for a given time; None: each has its own default."""
    rate: float | None = None
    """Tasks a second of the parts with a given load; None: each has its own default."""
    has_postgresql: bool = False
    """The parts about the history use PostgreSQL; the others choose their database themselves."""
    waiting_tasks: int
    """Of the part that fills a queue."""
    moments: int
    """How often the part freezes freezes each of its targets."""
    failing_tasks: int

    def rng(self, part: str) -> random.Random:
        """Return a random generator of a part's own, which no other part advances."""
        return random.Random(f"{self.seed} {part}")

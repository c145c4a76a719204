"""The options of the command line, which all parts share."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a run."""

    seed: int
    minutes: float | None = None
    """For the parts that last for a given time. None: each has its own default."""
    rate: float | None = None
    """Tasks a second, for the parts with a given load. None: each has its own default."""
    has_postgresql: bool | None = None
    """For the parts history, outages and batches; None: each has its own default. The others choose theirs."""
    waiting_tasks: int
    """For the parts that fill a queue."""
    moments: int
    """How often the part `freezes` stops each of its targets."""
    failing_tasks: int
    told_tasks: int
    """For the part `webhooks`."""
    load_s: float
    """How long a process loads in the part `rotations`."""

    def rng(self, part: str) -> random.Random:
        """Return the random generator of a part. Other parts do not advance it, so a part can be repeated alone."""
        return random.Random(f"{self.seed} {part}")

"""Owns how long to wait before trying again."""

import random


def delay_s(attempt: int, *, first_s: float, most_s: float, factor: float = 2.0) -> float:
    """Return the wait before try number `attempt` + 1 (from 0): it grows to a limit, give or take a quarter."""
    grown = first_s * factor ** min(attempt, 60)
    return min(grown, most_s) * random.uniform(0.75, 1.25)  # noqa: S311 (spreads load, hides nothing)

"""Owns the reading of time, so that tests can move it."""

import time


def now_ns() -> int:
    """Return Unix time in nanoseconds by this machine's clock."""
    return time.time_ns()


def monotonic_s() -> float:
    """Return seconds of a clock that never goes back, for measuring spans."""
    return time.monotonic()

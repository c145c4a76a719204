"""The current time. Tests replace these functions."""

import time


def now_ns() -> int:
    """Return Unix time in nanoseconds."""
    return time.time_ns()


def monotonic_ns() -> int:
    """Return nanoseconds of a clock that is never set."""
    return time.monotonic_ns()


def monotonic_s() -> float:
    """Return seconds of a clock that is never set."""
    return time.monotonic()

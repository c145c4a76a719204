"""Waits in tests for what other threads and processes do."""

import time
from collections.abc import Callable


def wait_until(is_so: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return as soon as a condition holds. Raise AssertionError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.005)

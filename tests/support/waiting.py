"""Wait in tests for other threads and processes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long a busy machine may delay something. A test that passes does not wait for this long."""


def wait_until(is_so: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Return as soon as a condition holds. Raise AssertionError if it does not hold in time."""
    eventually(is_so, within_s=timeout_s, what=lambda: "what was waited for did not come")


def eventually(
    look: Callable[[], T | bool | None], *, within_s: float = PATIENCE_S, what: Callable[[], object] = lambda: ""
) -> T:
    """Return the first truthy value of a function. Raise AssertionError with `what` if there is none in time."""
    began_s = time.monotonic()
    while not (found := look()):
        waited_s = time.monotonic() - began_s
        assert waited_s < within_s, what()
        time.sleep(min(max(waited_s / 20, 0.005), 0.25))  # calling `look` takes CPU time from what is waited for
    return found  # type: ignore[return-value]

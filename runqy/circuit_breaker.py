"""Keeps threads from waiting, one after another, for a server that does not respond."""

import threading
from collections.abc import Callable
from typing import TypeVar

from runqy import clock

T = TypeVar("T")

SLOW_S = 0.5
"""A failure that took less costs little, and needs no protection from the next."""
OPEN_S = 1.0


class CircuitOpen(Exception):
    """Another call failed a moment ago, after a long wait, or waits now."""


class CircuitBreaker:
    """After a call that failed slowly, calls fail at once for a second; then one at a time is tried."""

    def __init__(self, failures: tuple[type[Exception], ...]) -> None:
        """Take the errors that mean that the server did not respond."""
        self._failures = failures
        self._open_until_s: float | None = None
        self._trying = threading.Lock()

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns. Raises CircuitOpen, or what the function raises."""
        if self._open_until_s is None:
            return self._try(function)
        if clock.monotonic_s() < self._open_until_s or not self._trying.acquire(blocking=False):
            raise CircuitOpen
        try:
            return self._try(function)
        finally:
            self._trying.release()

    def _try(self, function: Callable[[], T]) -> T:
        began_s = clock.monotonic_s()
        try:
            value = function()
        except self._failures:
            now_s = clock.monotonic_s()
            self._open_until_s = now_s + OPEN_S if now_s - began_s >= SLOW_S else None
            raise
        self._open_until_s = None
        return value

"""A circuit breaker, so that threads do not all wait for a server that does not respond."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from runqy import clock

T = TypeVar("T")

SLOW_S = 0.5
"""Faster failures do not open the circuit."""
OPEN_S = 1.0


class CircuitOpen(Exception):
    """Another call has just failed slowly, or is being tried."""


class CircuitBreaker:
    """After a slow failure, calls fail at once for OPEN_S. Then one call at a time is tried."""

    def __init__(self, failures: tuple[type[Exception], ...]) -> None:
        """`failures` are the errors which mean that the server did not respond."""
        self._failures = failures
        self._open_until_s: float | None = None
        self._trying = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Return whether the last call failed slowly."""
        return self._open_until_s is not None

    def open(self) -> None:
        """Let calls fail at once for OPEN_S."""
        self._open_until_s = clock.monotonic_s() + OPEN_S

    def call(self, function: Callable[[], T]) -> T:
        """Raise CircuitOpen."""
        with self.calling():
            return function()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Make the `with` block a call. Raise CircuitOpen."""
        open_until_s = self._open_until_s  # read once: another thread may close the circuit meanwhile
        is_trial = open_until_s is not None
        if open_until_s is not None and (
            clock.monotonic_s() < open_until_s or not self._trying.acquire(blocking=False)
        ):
            raise CircuitOpen
        began_s = clock.monotonic_s()
        try:
            yield
        except BaseException as error:
            self.record(error, clock.monotonic_s() - began_s)
            raise
        else:
            self.record(None, 0)
        finally:
            if is_trial:
                self._trying.release()

    def record(self, error: BaseException | None, took_s: float) -> None:
        """Open or close the circuit after a call. Errors other than `failures` change nothing."""
        if error is None:
            self._open_until_s = None
        elif isinstance(error, self._failures):
            if took_s >= SLOW_S:
                self.open()
            else:
                self._open_until_s = None

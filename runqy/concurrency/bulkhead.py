"""A bulkhead: only a few threads wait for a server that does not respond."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runqy import clock

STALLED_S = 1.0
"""After this without a call that ended or began, a full bulkhead refuses calls."""


class BulkheadFull(Exception):
    """The calls in progress have been waiting for STALLED_S."""


class Bulkhead:
    """Lets a few calls run at a time. Others wait for their turn, as long as there is progress."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._changed = threading.Condition()
        # When each call in progress began.
        self._began_s: dict[object, float] = {}

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Enter the bulkhead for the duration of a call. Raise BulkheadFull."""
        token = object()
        with self._changed:
            while len(self._began_s) >= self._size:
                left_s = max(self._began_s.values()) + STALLED_S - clock.monotonic_s()
                if left_s <= 0:
                    raise BulkheadFull
                self._changed.wait(left_s)
            self._began_s[token] = clock.monotonic_s()
        try:
            yield
        finally:
            with self._changed:
                del self._began_s[token]
                self._changed.notify()

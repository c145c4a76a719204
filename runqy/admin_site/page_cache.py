"""Numbers that pages show, shared by all processes for a moment through Django's cache.

They are JSON of a known type, and neither HTML nor anything that grants a right, because workers with shared
credentials can write to Redis. A circuit breaker sees to it that threads do not all wait for a Redis that does not
respond.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from django.core.cache import cache

from runqy import clock
from runqy.broker.replies import REDIS_ERRORS
from runqy.core.formats.json_decoding import convert
from runqy.errors import RunqyError

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


_FAILURES = (*REDIS_ERRORS, RunqyError)
# A page needs several numbers, and must not wait for a silent Redis more than once.
_breaker = CircuitBreaker(_FAILURES)


def get_or_read(key: str, kind: Any, read: Callable[[], T], *, max_age_s: float, is_fresh: bool = False) -> T:
    """Return a cached value, or what `read` returns, and cache that. `is_fresh` ignores the cached value.

    `kind` is the type of the value. Raise what `read` raises. While Redis is unavailable, nothing is cached.
    """
    if not is_fresh and (cached := _find(key, kind)):
        value: T = cached[0]
        return value
    value = read()
    _call(lambda: cache.set(key, [msgspec.to_builtins(value, str_keys=True)], max_age_s))
    return value


def _find(key: str, kind: Any) -> list[Any]:
    """Return a list with the cached value, which may be None; empty if there is no value of this type."""
    try:
        return convert(_call(lambda: cache.get(key)) or [], list[kind])
    except msgspec.ValidationError:
        return []


def _call(function: Callable[[], Any]) -> Any:
    """Return the result of a call of the cache; None if Redis is unavailable, or if the value is not JSON."""
    try:
        return _breaker.call(function)
    except (*_FAILURES, CircuitOpen, ValueError):
        return None

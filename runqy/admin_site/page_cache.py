"""Numbers that pages show, shared by all processes for a moment through Django's cache.

They are JSON of a known type, and neither HTML nor anything that grants a right, because workers with shared
credentials can write to Redis.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from django.core.cache import cache

from runqy.broker.replies import REDIS_ERRORS
from runqy.core.concurrency.circuit_breaker import CircuitBreaker, CircuitOpen
from runqy.core.formats.json_decoding import convert
from runqy.errors import RunqyError

T = TypeVar("T")

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

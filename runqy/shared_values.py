"""Values that the pages of a process share for a moment, so that many open pages cost little more than one."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runqy import clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    values: list[V] = field(default_factory=list)
    """The value, once there is one."""
    read_at_s: float = float("-inf")
    error: Exception | None = None
    """Of the last read, if it failed."""
    failed_at_s: float = float("-inf")


class SharedValues(Generic[K, V]):
    """The last value of each key, read again when it is too old.

    One thread reads a key while the others that need it wait; different keys do not wait for each other.
    """

    def __init__(self, *, max_age_s: float, max_size: int) -> None:
        self._max_age_s = max_age_s
        self._max_size = max_size
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()

    def get(self, key: K, read: Callable[[], V]) -> V:
        """Return the value of a key, from `read` if it is too old. Raise what `read` raises.

        Threads that waited for a read share its error too: a store that hangs would block one after another.
        """
        entry, called_at_s = self._find_entry(key), clock.monotonic_s()
        with entry.lock:
            if entry.error is not None and entry.failed_at_s > called_at_s:
                raise entry.error
            if not entry.values or clock.monotonic_s() - entry.read_at_s > self._max_age_s:
                try:
                    entry.values[:] = [read()]
                except Exception as error:
                    entry.error, entry.failed_at_s = error, clock.monotonic_s()
                    raise
                entry.read_at_s = clock.monotonic_s()
            return entry.values[0]

    def clear(self) -> None:
        """Read every value again next time."""
        with self._lock:
            self._entries.clear()

    def _find_entry(self, key: K) -> _Entry[V]:
        """Return the entry of a key; beyond `max_size` the least recently used one is dropped."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_size:
                self._entries.popitem(last=False)
            return entry

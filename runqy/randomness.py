"""Fetches random bytes for many at a time.

Each system call lets go of the interpreter, and a busy thread has to wait until it gets it back.
"""

import os
from collections import deque

SIZE = 16
_KEPT = 256

_pieces: deque[bytes] = deque()
os.register_at_fork(after_in_child=_pieces.clear)


def random_bytes() -> bytes:
    """Return 16 bytes that nobody else gets, from the system's generator."""
    try:
        return _pieces.pop()
    except IndexError:
        fresh = os.urandom(SIZE * _KEPT)
        _pieces.extend(fresh[start : start + SIZE] for start in range(SIZE, len(fresh), SIZE))
        return fresh[:SIZE]

"""Keeps the worker's own secrets from other processes of the same user, as far as the system lets it."""

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def make_undumpable() -> bool:
    """Keep memory and environment of this process from debuggers and /proc, on Linux. Returns whether that worked."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)

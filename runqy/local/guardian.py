"""Sees to it that there is one stack on a folder, and that one that was killed leaves nothing behind.

The guardian is a process of its own that reads a pipe from the stack: when the stack is gone, the pipe ends. It then
ends the stack's processes in order, unless a new stack, which does the same at its start, was quicker.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runqy.errors import StackFailed
from runqy.local.locks import FileLock, LockHeld, read_note
from runqy.local.processes import end_group
from runqy.local.stop_signals import StopSignals

_CLEANING = "cleaning up"
_CLEANING_S = 90.0
_LETTING_GO_S = 1.0
_PROCESS_GRACE_S = 15.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLocks:
    """The lock of a stack itself, and those of its processes in the order in which they are ended."""

    stack: Path
    processes: tuple[Path, ...]

    def end_leftovers(self) -> list[Path]:
        """End the processes of an earlier stack; the caller holds the stack's lock. Returns the locks still held."""
        return [lock for lock in self.processes if not end_group(lock, grace_s=_PROCESS_GRACE_S)]


@contextlib.contextmanager
def only_stack(locks: StackLocks, stop: StopSignals) -> Iterator[None]:
    """Be the only stack on these locks, with a guardian, after what an earlier one left behind has been ended.

    Raises StackFailed when another one runs.
    """
    lock = _take_lock(locks.stack, stop)
    lock.note(f"process {os.getpid()}")
    try:
        if held := locks.end_leftovers():
            raise StackFailed(f"a process of an earlier stack cannot be ended; it holds {held[0]}.")
        with _guarded(locks):
            yield
    finally:
        lock.close()


def watch(locks: StackLocks) -> None:
    """Wait for the end of the stack, then clean up after it, unless a new one holds its lock."""
    guarded = read_note(locks.stack)
    sys.stdin.buffer.read()
    while True:
        try:
            lock = FileLock(locks.stack)
        except LockHeld:
            if read_note(locks.stack) != guarded:
                return
            time.sleep(_LOOK_S)  # a process that is killed lets go of its pipe before it lets go of its lock
        else:
            break
    lock.note(_CLEANING)
    locks.end_leftovers()


def _take_lock(path: Path, stop: StopSignals) -> FileLock:
    """Take the lock of the stack; a guardian may still be cleaning up, and a killed stack be about to let go of it."""
    started = time.monotonic()
    while True:
        try:
            return FileLock(path)
        except LockHeld:
            holder = read_note(path)
            patience_s = _CLEANING_S if holder == _CLEANING else _LETTING_GO_S
            if time.monotonic() > started + patience_s:
                raise StackFailed(f"{holder} runs here already: it holds {path}. Stop it, or set RUNQY_HOME.") from None
        stop.sleep(_LOOK_S)


@contextlib.contextmanager
def _guarded(locks: StackLocks) -> Iterator[None]:
    guardian = subprocess.Popen(
        [sys.executable, "-m", __name__, str(locks.stack), *map(str, locks.processes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guardian.kill()  # all that it guards has ended
        guardian.communicate()


if __name__ == "__main__":
    stack, *processes = map(Path, sys.argv[1:])
    watch(StackLocks(stack=stack, processes=tuple(processes)))

"""Allow one stack a folder, and end the processes that a killed stack leaves behind.

The reaper is a process that reads a pipe from the stack: when the stack exits, the pipe ends. It then ends the stack's
processes in order, unless a new stack, which does the same at its start, was faster.
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
from runqy.supervisor.locks import FileLock, LockHeld, read_holder
from runqy.supervisor.process_specs import python_command
from runqy.supervisor.processes import end_group
from runqy.supervisor.stop_signals import StopSignals

_CLEANING = "cleaning up"
_CLEANING_S = 90.0
_RELEASE_S = 1.0
_PROCESS_GRACE_S = 15.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLocks:
    """The lock of a stack, and those of its processes in the order in which they are stopped."""

    stack: Path
    processes: tuple[Path, ...]

    def end_leftovers(self) -> list[Path]:
        """End the processes of an earlier stack and return the locks still held. The caller holds the stack's lock."""
        return [lock for lock in self.processes if not end_group(lock, grace_s=_PROCESS_GRACE_S)]


@contextlib.contextmanager
def only_stack(locks: StackLocks, stop: StopSignals) -> Iterator[None]:
    """Hold the stack's lock, with a reaper, after ending the processes that an earlier stack left behind.

    Raise StackFailed if another stack runs.
    """
    lock = _acquire(locks.stack, stop)
    lock.write_holder(f"process {os.getpid()}")
    try:
        if held := locks.end_leftovers():
            raise StackFailed(f"a process of an earlier stack cannot be stopped; it holds {held[0]}.")
        with _reaper_process(locks):
            yield
    finally:
        lock.close()


def watch(locks: StackLocks) -> None:
    """Wait until the stack exits, then end its processes, unless a new stack holds the lock."""
    watched = read_holder(locks.stack)
    sys.stdin.buffer.read()
    while True:
        try:
            lock = FileLock(locks.stack)
        except LockHeld:
            if read_holder(locks.stack) != watched:
                return
            time.sleep(_POLL_S)  # a killed process releases its pipe before its lock
        else:
            break
    lock.write_holder(_CLEANING)
    locks.end_leftovers()


def _acquire(path: Path, stop: StopSignals) -> FileLock:
    """Acquire the stack's lock; wait for a reaper that is cleaning up, and for a killed stack to release it."""
    started = time.monotonic()
    while True:
        try:
            return FileLock(path)
        except LockHeld:
            holder = read_holder(path)
            patience_s = _CLEANING_S if holder == _CLEANING else _RELEASE_S
            if time.monotonic() > started + patience_s:
                raise StackFailed(
                    f"{holder} is already running here: it holds {path}. Stop it, or set RUNQY_HOME."
                ) from None
        stop.sleep(_POLL_S)


@contextlib.contextmanager
def _reaper_process(locks: StackLocks) -> Iterator[None]:
    reaper = subprocess.Popen(
        python_command(__name__, str(locks.stack), *map(str, locks.processes)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        reaper.kill()  # all processes have ended
        reaper.communicate()


if __name__ == "__main__":
    stack, *processes = map(Path, sys.argv[1:])
    watch(StackLocks(stack=stack, processes=tuple(processes)))

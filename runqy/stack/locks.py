"""File locks that a process shares with its children, held until the last of them exits."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from runqy.errors import StackFailed
from runqy.stack.stop_signals import StopSignals

_LEFTOVERS_S = 60.0
"""How long a start waits for processes of a killed stack to end. Web processes complete their requests first."""
_POLL_S = 0.05


class LockHeld(StackFailed):
    """Another process holds the lock."""


class FileLock:
    """An exclusive lock on a file.

    The lock belongs to the open file. A process that inherits `fd` also holds it, even after this process is killed.
    """

    def __init__(self, path: Path) -> None:
        """Acquire the lock. Raise LockHeld, or StackFailed if the file cannot be created."""
        self.path = path
        self.fd = _open(path)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LockHeld(f"another process holds {path}.") from None

    def close(self) -> None:
        """Close the file. A process that inherited it still holds the lock."""
        os.close(self.fd)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StackFailed(f"{error.filename} cannot be used: {error.strerror}.") from error


def is_held(path: Path) -> bool:
    try:
        FileLock(path).close()
    except LockHeld:
        return True
    return False


@contextlib.contextmanager
def only_stack(folder: Path, stop: StopSignals) -> Iterator[FileLock]:
    """Hold the lock of the stack in a folder, and yield the lock that its processes inherit.

    Raise StackFailed if another stack runs, or if processes of a killed one do not end.
    """
    # The first lock ends with the supervisor, the second one with the last of its processes.
    with (
        contextlib.closing(_acquire_stack(folder / "stack.lock")),
        contextlib.closing(_acquire_processes(folder / "processes.lock", stop)) as processes,
    ):
        yield processes


def _acquire_stack(path: Path) -> FileLock:
    try:
        lock = FileLock(path)
    except LockHeld:
        pid = path.read_text(errors="replace")
        raise StackFailed(
            f"process {pid} is already running here: it holds {path}. Stop it, or set RUNQY_HOME."
        ) from None
    # Written only now: until the lock is held, the file has the pid of another stack.
    os.ftruncate(lock.fd, 0)
    os.pwrite(lock.fd, str(os.getpid()).encode(), 0)
    return lock


def _acquire_processes(path: Path, stop: StopSignals) -> FileLock:
    deadline = time.monotonic() + _LEFTOVERS_S
    while True:
        try:
            return FileLock(path)
        except LockHeld:
            if time.monotonic() > deadline:
                raise StackFailed(f"a process of a killed stack still runs: it holds {path}. End it.") from None
        stop.sleep(_POLL_S)

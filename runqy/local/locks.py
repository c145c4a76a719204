"""Owns locks on files that a process and what it starts hold together, until the last of them is gone."""

import fcntl
import os
from pathlib import Path

from runqy.errors import StackFailed


class LockHeld(StackFailed):
    """Another process holds the lock."""


class FileLock:
    """An exclusive lock, and a note in the locked file that says who holds it.

    The lock belongs to the open file: a process that inherits `fd` holds it too, even after this one was killed.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises LockHeld, and StackFailed when the file cannot be made."""
        self.path = path
        self.fd = _open(path)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LockHeld(f"another process holds {path}.") from None

    def note(self, text: str) -> None:
        """Write down who holds the lock."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Let go of the file here; whoever inherited it holds the lock on."""
        os.close(self.fd)


def _open(path: Path) -> int:
    """Open a file to lock, in a folder that is made if need be."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StackFailed(f"{error.filename} cannot be used: {error.strerror}.") from error


def is_held(path: Path) -> bool:
    """Tell whether any process holds the lock."""
    try:
        FileLock(path).close()
    except LockHeld:
        return True
    return False


def read_note(path: Path) -> str:
    """Return what the last holder wrote down; empty if nothing."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""

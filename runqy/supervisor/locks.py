"""File locks that a process shares with its children, held until the last of them exits."""

import fcntl
import os
from pathlib import Path

from runqy.errors import StackFailed


class LockHeld(StackFailed):
    """Another process holds the lock."""


class FileLock:
    """An exclusive lock on a file that names its holder.

    The lock belongs to the open file: a process that inherits `fd` holds it too, even after this one is killed.
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

    def write_holder(self, text: str) -> None:
        """Write the holder's name into the file."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Close the file. A process that inherited it still holds the lock."""
        os.close(self.fd)


def _open(path: Path) -> int:
    """Open a file to lock, creating its folder if necessary."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StackFailed(f"{error.filename} cannot be used: {error.strerror}.") from error


def is_held(path: Path) -> bool:
    """Return whether any process holds the lock."""
    try:
        FileLock(path).close()
    except LockHeld:
        return True
    return False


def read_holder(path: Path) -> str:
    """Return the name of the last holder; empty if there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""

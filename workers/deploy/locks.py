"""Owns the locks between workers of one machine that share a folder of deployments."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runqy.git.commands import Commands

LOOK_AGAIN_S = 0.2


@contextmanager
def exclusive(path: Path, commands: Commands) -> Iterator[None]:
    """Hold a lock alone; waits for it unless the deployment is told to stop."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            commands.wait(LOOK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)


class FolderLease:
    """A mark on a folder that keeps others from deleting it, gone when released or when this process ends."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(_mark(folder), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Take the mark away. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_in_use(folder: Path) -> bool:
    """Tell whether some process has marked a folder."""
    descriptor = os.open(_mark(folder), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        return not _try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def forget(folder: Path) -> None:
    """Remove the file behind a folder's mark, once the folder is deleted."""
    _mark(folder).unlink(missing_ok=True)


def _mark(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.in-use")


def _try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock if that is possible at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

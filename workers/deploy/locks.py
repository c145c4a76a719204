"""Locks between workers on one machine that share a deployment folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runqy.core.git.commands import CommandRunner

RETRY_S = 0.2


@contextmanager
def exclusive(path: Path, commands: CommandRunner) -> Iterator[None]:
    """Hold an exclusive lock. Wait for it until it is free; raise DeploymentStopped when the deployment is stopped."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            commands.wait(RETRY_S)
        yield
    finally:
        os.close(descriptor)


class FolderLease:
    """Keeps other workers from deleting a folder, until it is released or this process ends."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Allow the folder to be deleted. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_leased(folder: Path) -> bool:
    descriptor = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        return not _try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def remove_lock_file(folder: Path) -> None:
    _lock_file(folder).unlink(missing_ok=True)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.in-use")


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

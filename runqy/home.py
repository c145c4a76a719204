"""Owns RUNQY_HOME, the folder with everything that an instance keeps, and the secrets generated in it."""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


class HomeUnusable(SystemExit):
    """The folder cannot be made, read or written; leaving with one sentence is what a start does about it."""


def restrict_new_files() -> None:
    """Give what this process creates from now on to its user alone, whatever the umask was."""
    os.umask(0o077)


def make_home(home: Path) -> Path:
    """Create the folder, or take it from other users if it exists. Returns it. Raises HomeUnusable."""
    with _explained(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _restrict(home)
    return home


def restrict_sqlite(database: Path) -> None:
    """Take a SQLite file and its journals from other users, as far as they exist: SQLite copies the file's mode."""
    with _explained(database):
        for name in (database.name, *(f"{database.name}-{journal}" for journal in ("wal", "shm", "journal"))):
            with contextlib.suppress(FileNotFoundError):
                _restrict(database.with_name(name))


def _restrict(path: Path) -> None:
    """Remove the rights of group and others. Ignored for what belongs to another user, who has decided otherwise."""
    status = path.stat()
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(status.st_mode) & 0o700)


def _random_text() -> str:
    return secrets.token_urlsafe(48)


def kept_secret(home: Path, name: str, generate: Callable[[], str] = _random_text) -> str:
    """Return the secret in a file of the folder, generated on first use (mode 0600). Raises HomeUnusable.

    Of several processes that start at once all get the same: the file appears whole or not at all.
    """
    path = make_home(home) / name
    with _explained(home):
        if not path.exists():
            _keep(path, generate())
        return path.read_text("ascii").strip()


def _keep(path: Path, secret: str) -> None:
    """Write a secret to a file that is not there yet; a process that was quicker has its way."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


@contextlib.contextmanager
def _explained(home: Path) -> Iterator[None]:
    """Say in a sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise HomeUnusable(f"RUNQY_HOME: {error.filename or home} cannot be used: {error.strerror}.") from error

"""RUNQY_HOME, the folder with the data of an instance, and the secrets that are generated in it."""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


class HomeUnusable(SystemExit):
    """The folder cannot be created, read or written. The process exits with the message."""


def make_home(home: Path) -> Path:
    """Create the folder, or restrict its mode if it exists, and return it. Raise HomeUnusable."""
    with _home_errors(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _restrict(home)
    return home


def restrict_sqlite(database: Path) -> None:
    """Restrict the mode of an existing SQLite file and of its journals. SQLite gives new journals the file's mode."""
    with _home_errors(database):
        for name in (database.name, *(f"{database.name}-{journal}" for journal in ("wal", "shm", "journal"))):
            with contextlib.suppress(FileNotFoundError):
                _restrict(database.with_name(name))


def _restrict(path: Path) -> None:
    """Remove the rights of group and others. Files of another user are left as they are."""
    status = path.stat()
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(status.st_mode) & 0o700)


def _generate_secret() -> str:
    return secrets.token_urlsafe(48)


def get_or_create_secret(home: Path, name: str, generate: Callable[[], str] = _generate_secret) -> str:
    """Return the secret in a file of the folder. Generate it on first use, with mode 0600. Raise HomeUnusable."""
    path = make_home(home) / name
    with _home_errors(home):
        if not path.exists():
            _create_file(path, generate())
        return path.read_text("ascii").strip()


def _create_file(path: Path, secret: str) -> None:
    """Create a file with a secret, unless another process has created it."""
    # A draft is written, then linked: of processes that start at once, one creates the file and none reads half of it.
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
def _home_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HomeUnusable(f"RUNQY_HOME: {error.filename or home} cannot be used: {error.strerror}.") from error

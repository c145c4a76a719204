"""Owns RUNQY_HOME, the folder with everything that an instance keeps, and the secrets generated in it."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def make_home(home: Path) -> Path:
    """Create the folder, for its owner only. Returns it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def _random_text() -> str:
    return secrets.token_urlsafe(48)


def kept_secret(home: Path, name: str, generate: Callable[[], str] = _random_text) -> str:
    """Return the secret in a file of the folder, generated on first use (mode 0600).

    Of several processes that start at once all get the same: the file appears whole or not at all.
    """
    path = make_home(home) / name
    if not path.exists():
        draft = path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(generate() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text("ascii").strip()

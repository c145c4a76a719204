"""The servers that `runqy login` saved, each with its API key."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from runqy.cli.errors import CliError, ExitCode


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A server and the key for it."""

    url: str
    key: str


class Profiles(msgspec.Struct, kw_only=True):
    """All saved servers, by name."""

    current: str = ""
    profiles: dict[str, Profile] = {}

    def get(self, name: str) -> Profile:
        """Return a profile. Raise CliError."""
        try:
            return self.profiles[name]
        except KeyError:
            known = ", ".join(sorted(self.profiles)) or "none"
            message = f"No profile {name!r}. Saved profiles: {known}. Use `runqy login --name {name}` to add it."
            raise CliError(message, ExitCode.NOT_FOUND) from None


def get_path() -> Path:
    """Return the path of the file, in the folder that the XDG Base Directory Specification names."""
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification: a relative path is invalid and is ignored.
    return (Path(folder) if folder.startswith("/") else Path.home() / ".config") / "runqy" / "profiles.json"


def load_profiles() -> Profiles:
    """Return the saved profiles. Raise CliError if others can read the file, or if it is damaged."""
    path = get_path()
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read()
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise CliError(f"Other users can read the API keys in {path}. Run `chmod 600 {path}`.")
    try:
        return msgspec.json.decode(content, type=Profiles)
    except msgspec.DecodeError as error:
        raise CliError(f"{path} is damaged: {error}. Delete it, and log in again.") from error


def save_profiles(profiles: Profiles) -> None:
    """Replace the file, which its owner alone can read. Raise CliError."""
    path = get_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Replaced as a whole: a command that is interrupted leaves the old file. `mkstemp` creates it with 0600.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".profiles-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(profiles), indent=2) + b"\n")
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}.") from error

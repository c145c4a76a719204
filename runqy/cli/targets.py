"""Which server a command uses, and with which key."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from runqy.cli.output import Format
from runqy.cli.profiles import Profile, load_profiles

if TYPE_CHECKING:
    from runqy.cli.client import Client

_DEFAULT_URL = "http://localhost:3000"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The shared options of a command line."""

    server: str
    api_key: str
    profile: str
    format: Format | None

    @classmethod
    def of(cls, context: typer.Context) -> "Flags":
        """Return the options given to a command, or before its name to a group that contains it."""

        def find(name: str) -> Any:
            return next((each.params[name] for each in _with_parents(context) if each.params.get(name)), None)

        output = find("output") or (Format.JSON if find("as_json") else None)
        return cls(
            server=(find("server") or "").rstrip("/"),
            api_key=find("api_key") or "",
            profile=find("profile") or "",
            format=None if output is None else Format(output),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server that a command uses, and where its address is from."""

    url: str
    key: str
    source: str
    """What selected the server."""
    profile: str = ""
    """The name of its profile, if that selected it."""
    hint: str = ""
    """A sentence for error messages about an address that nobody gave."""
    has_given_key: bool
    """Whether the key is an option or from the environment."""


def find_target(flags: Flags) -> Target:
    """Return the server: that of an option, else of the environment, a profile, or the stack in this folder.

    Raise CliError.
    """
    env = os.environ
    env_key = env.get("RUNQY_API_KEY", "")
    chosen = load_profiles().get(flags.profile) if flags.profile else None
    if flags.server:
        # The key of a profile is sent to no other server.
        own_key = chosen.key if chosen and chosen.url == flags.server else env_key
        return _make_target(flags.server, flags.api_key or own_key, "--server")
    if chosen:
        return _make_profile_target(flags.profile, chosen, flags.api_key)
    given_key = flags.api_key or env_key
    for name in ("RUNQY_SERVER_URL", "RUNQY_SERVER"):  # the latter is that of the Go command line
        if url := env.get(name, "").rstrip("/"):
            return _make_target(url, given_key, name)
    saved = load_profiles()
    if current := env.get("RUNQY_PROFILE") or saved.current:
        return _make_profile_target(current, saved.get(current), given_key)
    url, hint = _find_stack(env.get("PORT", ""), _home())
    return _make_target(url, given_key, "the stack in this folder", hint)


def make_client(url: str, key: str) -> "Client":
    """Tests replace this function."""
    from runqy.cli.client import Client  # noqa: PLC0415 (httpx2 is slow to import, and --help does not need it)

    return Client(url, key)


def _with_parents(context: typer.Context | None) -> Iterator[Any]:
    each: Any = context
    while each is not None:
        yield each
        each = each.parent


def _make_target(url: str, key: str, source: str, hint: str = "") -> Target:
    return Target(url=url, key=_find_api_key(url, key), source=source, hint=hint, has_given_key=bool(key))


def _make_profile_target(name: str, profile: Profile, given_key: str) -> Target:
    return Target(
        url=profile.url,
        key=given_key or profile.key,
        source="profile",
        profile=name,
        hint=f"The address is from the profile {name}. Use `runqy login --name {name}` to replace it.",
        has_given_key=bool(given_key),
    )


def _home() -> Path:
    return Path(os.environ.get("RUNQY_HOME") or ".runqy")


def _find_stack(port: str, home: Path) -> tuple[str, str]:
    """Return the URL of the server on this machine, and for error messages where it comes from."""
    file = home / "server_url"
    if port:
        return f"http://localhost:{port}", ""
    kept = file.read_text("utf-8", errors="replace").strip() if os.access(file, os.R_OK) else ""
    # A folder of somebody else must not have the key of the environment sent elsewhere.
    if kept and urlsplit(kept).hostname in LOCAL_HOSTS:
        return (
            kept,
            f"The address is from {file}, which `runqy up` wrote when it started. RUNQY_SERVER_URL overrides it.",
        )
    hint = "This is the default address: use `runqy login`, or run the command in the folder in which the stack runs."
    return _DEFAULT_URL, hint


def _find_api_key(url: str, given: str) -> str:
    """Return the given key, or for a server on this machine the key in the home folder."""
    file = _home() / "api_key"
    if given or urlsplit(url).hostname not in LOCAL_HOSTS or not os.access(file, os.R_OK):
        return given
    return file.read_text("ascii").strip()

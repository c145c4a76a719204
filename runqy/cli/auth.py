"""The commands `runqy login`, `runqy logout` and `runqy auth`: save servers with their keys, and choose one."""

import os
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from runqy.cli import prompts, targets
from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_profiles
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.profiles import Profile, load_profiles, save_profiles

app = new_group(
    "Show and switch between servers that `runqy login` saved.",
    examples="runqy auth status\nrunqy auth switch staging",
)

LOGIN_EXAMPLES = """
runqy login --server https://runqy.example.com
runqy login --server https://staging.example.com --name staging
runqy login --server https://runqy.example.com < key.txt
"""
LOGOUT_EXAMPLES = "runqy logout\nrunqy logout --name staging\nrunqy logout --all"

Name = Annotated[
    str, typer.Option("--name", "-n", metavar="NAME", help="Name of the profile.", autocompletion=complete_profiles)
]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWN_KEYS = "/admin/api-keys/"
_STATUS = ("url", "source", "profile", "status", "role", "key_name", "queues", "vaults", "server_version")


def login(session: Session, *, name: Name = "") -> None:
    """Save a server and an API key as a profile.

    Commands use it from now on. Make a key of your own in the admin: My API keys. It is typed without being shown, or
    read from standard input or RUNQY_API_KEY. It is saved after the server has accepted it, in a file that only you can
    read.
    """
    name = name or session.flags.profile or "default"
    if not _NAME.fullmatch(name):
        raise CliError(f"--name: {name!r} has other characters than letters, digits, '.', '_', '-'.", ExitCode.USAGE)
    profiles = load_profiles()
    url = _read_url(session)
    key = _read_key(session, url)
    try:
        own = targets.make_client(url, key).get("/api/keys/self")
    except ServerError as error:
        raise CliError(f"Not saved: {error}", error.exit_code) from error
    profiles.profiles[name] = Profile(url=url, key=key)
    profiles.current = name
    save_profiles(profiles)
    text = f"Logged in to {url} with the {own['role']} key {own['name']!r}, saved as profile {name}."
    session.out.result({"profile": name, "url": url, "role": own["role"], "key_name": own["name"]}, text, name=name)


def logout(
    session: Session,
    *,
    name: Name = "",
    everything: Annotated[bool, typer.Option("--all", help="Remove all profiles.")] = False,
) -> None:
    """Remove a profile, by default the current one. The key stays valid until it is revoked on the server."""
    profiles = load_profiles()
    name = name or session.flags.profile or profiles.current
    if everything:
        removed = sorted(profiles.profiles)
        profiles.profiles.clear()
    elif not name:
        session.out.result({"removed": []}, "Not logged in.")
        return
    else:
        profiles.get(name)
        removed = [name]
        del profiles.profiles[name]
    # No other profile becomes the current one: the next command would go to a server that nobody chose.
    if profiles.current not in profiles.profiles:
        profiles.current = ""
    save_profiles(profiles)
    rest = ", ".join(sorted(profiles.profiles))
    hint = f" Use `runqy auth switch` for one of: {rest}." if rest and not profiles.current else ""
    session.out.result({"removed": removed}, f"Removed: {', '.join(removed) or 'nothing'}.{hint}")


@command(app, "status", examples="runqy auth status\nrunqy auth status --profile staging")
def status(session: Session) -> None:
    """Show which server commands use, why this one, and what the key may do.

    Fails if the server cannot be reached or refuses the key.
    """
    target = session.target
    shown: dict[str, Any] = {"url": target.url, "source": target.source, "profile": target.profile or None}
    try:
        own = session.api.get("/api/keys/self")
    except ServerError:
        session.out.item(shown | {"status": "failing"}, _STATUS)
        raise
    shown |= {"status": "valid", "role": own["role"], "key_name": own["name"]}
    shown |= {"queues": own["queues"], "vaults": own["vaults"]}
    session.out.item(shown | {"server_version": session.api.get("/health")["version"]}, _STATUS)


@command(app, "list", examples="runqy auth list")
def list_profiles(session: Session) -> None:
    """List the saved servers."""
    profiles = load_profiles()
    rows = [
        {"name": name, "url": profile.url, "current": name == profiles.current}
        for name, profile in sorted(profiles.profiles.items())
    ]
    session.out.rows(rows, ("name", "url", "current"), empty="No profiles. Use `runqy login --server URL`.")


@command(app, "switch", examples="runqy auth switch staging")
def switch(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the profile.", metavar="NAME", autocompletion=complete_profiles)],
) -> None:
    """Use another saved server from now on."""
    profiles = load_profiles()
    url = profiles.get(name).url
    profiles.current = name
    save_profiles(profiles)
    session.out.result({"profile": name, "url": url}, f"Switched to {name}: {url}", name=name)


def _read_url(session: Session) -> str:
    url = session.flags.server
    if not url:
        if not prompts.is_interactive():
            raise CliError("--server is required without a terminal.", ExitCode.USAGE)
        url = typer.prompt("URL of the server", err=True).strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CliError(f"--server: {url!r} is not a URL such as https://runqy.example.com.", ExitCode.USAGE)
    if parts.scheme == "http" and parts.hostname not in targets.LOCAL_HOSTS:
        session.out.note("The key is sent unencrypted: use https outside of trusted networks.")
    return url


def _read_key(session: Session, url: str) -> str:
    key = session.flags.api_key or os.environ.get("RUNQY_API_KEY", "")
    if not key:
        if prompts.is_interactive():
            session.out.note(f"Make a key of your own at {url}{_OWN_KEYS}, and paste it here.")
        key = prompts.read_secret("API key")
    if not (key := key.strip()):
        raise CliError("No API key was given. Type it, or pass it on standard input.", ExitCode.USAGE)
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise CliError("The API key has characters that no key has.", ExitCode.USAGE)
    return key

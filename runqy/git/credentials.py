"""Lets git authenticate without a secret in a command line, a log or the repository's configuration."""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from runqy.git.sources import Source

# git asks "Username for 'https://host': " and "Password for 'https://user@host': ". After a redirect it asks for the
# other host, which gets nothing. The environment of git can be read by other processes of the same user, so the secret
# is not in it.
_ASKPASS = """#!/bin/sh
case "$1" in
  "Username for 'https://$RUNQY_GIT_HOST'"*) printf '%s\\n' "$RUNQY_GIT_USER" ;;
  "Password for 'https://"*"@$RUNQY_GIT_HOST'"*)
    IFS= read -r secret <"/dev/fd/$RUNQY_SECRET_FD" && printf '%s\\n' "$secret" ;;
  *) exit 1 ;;
esac
"""
_NO_REDIRECTS = ("-c", "http.followRedirects=false")
"""A token is meant for one host, and goes nowhere that this host leads to."""
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|SSH_AUTH_SOCK|(?:GIT_)?SSL_C.*|(?:http|https|no|all)_proxy", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class GitCredentials:
    """What this worker may show to git servers."""

    token: str = field(default="", repr=False)
    """An access token, or `user:token`."""
    ssh_key: str = field(default="", repr=False)
    """A private key: its path or its text."""

    @property
    def secrets(self) -> list[str]:
        """Return what must not be printed."""
        key = self.ssh_key if _is_key_text(self.ssh_key) else ""
        return [secret for secret in (self.token, self.token.partition(":")[2], key) if secret]


@dataclass(frozen=True, slots=True)
class GitEnvironment:
    """How git is run."""

    variables: dict[str, str]
    secret: str = field(default="", repr=False)
    """What the script that git calls for a password reads from a pipe; see `Commands.run`."""
    options: tuple[str, ...] = ()
    """Options of git for every call."""


@contextmanager
def git_environment(source: Source, credentials: GitCredentials) -> Iterator[GitEnvironment]:
    """Give the environment in which git reaches a source and nothing else: no prompts, no configuration of the user."""
    secret = ""
    options: tuple[str, ...] = ()
    env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    env |= {
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GCM_INTERACTIVE": "never",
    }
    with TemporaryDirectory(prefix="runqy-git-") as folder:
        if source.scheme == "https" and credentials.token:
            user, _, secret = credentials.token.rpartition(":")
            env |= _askpass(source, user, Path(folder))
            options = _NO_REDIRECTS
        if source.scheme == "ssh":
            env["GIT_SSH_COMMAND"] = _ssh_command(credentials.ssh_key, Path(folder))
        yield GitEnvironment(env, secret, options)


def _askpass(source: Source, user: str, folder: Path) -> dict[str, str]:
    """Return what makes git ask our script, which answers for this source's host only."""
    script = folder / "askpass"
    script.write_text(_ASKPASS)
    script.chmod(0o700)
    return {
        "GIT_ASKPASS": str(script),
        "RUNQY_GIT_HOST": source.host,
        "RUNQY_GIT_USER": user or "x-access-token",
    }


def _ssh_command(key: str, folder: Path) -> str:
    """Return the ssh that git calls: never asks, uses our key if there is one."""
    words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]
    if _is_key_text(key):
        file = folder / "key"
        file.touch(mode=0o600)
        file.write_text(key.rstrip() + "\n")
        key = str(file)
    if key:
        words += ["-o", "IdentitiesOnly=yes", "-i", key]
    return shlex.join(words)


def _is_key_text(key: str) -> bool:
    """Tell a key's text from the path of its file."""
    return key.lstrip().startswith("-----BEGIN")

"""Authenticate git without a secret in a command line, a log or the repository's configuration."""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from runqy.core.git.sources import Source

# git prompts "Username for 'https://host': " and "Password for 'https://user@host': ". After a redirect it prompts for
# the other host, for which the script fails. The secret is not in git's environment, which other processes of the same
# user can read.
_ASKPASS = """#!/bin/sh
case "$1" in
  "Username for 'https://$RUNQY_GIT_HOST'"*) printf '%s\\n' "$RUNQY_GIT_USER" ;;
  "Password for 'https://"*"@$RUNQY_GIT_HOST'"*)
    IFS= read -r secret <"/dev/fd/$RUNQY_SECRET_FD" && printf '%s\\n' "$secret" ;;
  *) exit 1 ;;
esac
"""
_NO_REDIRECTS = ("-c", "http.followRedirects=false")
"""A token is for one host and must not reach those that it redirects to."""
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|SSH_AUTH_SOCK|(?:GIT_)?SSL_C.*|(?:http|https|no|all)_proxy", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class GitCredentials:
    """The worker's credentials for git servers."""

    token: str = field(default="", repr=False)
    """An access token, or `user:token`."""
    ssh_key: str = field(default="", repr=False)
    """A private key: its path or its content."""

    @property
    def secrets(self) -> list[str]:
        key = self.ssh_key if _is_key_text(self.ssh_key) else ""
        return [secret for secret in (self.token, self.token.partition(":")[2], key) if secret]


@dataclass(frozen=True, slots=True)
class GitEnvironment:
    """Environment and options of git."""

    variables: dict[str, str]
    secret: str = field(default="", repr=False)
    """The askpass script reads it from a pipe; see `CommandRunner.run`."""
    options: tuple[str, ...] = ()


@contextmanager
def git_environment(source: Source, credentials: GitCredentials) -> Iterator[GitEnvironment]:
    """Give an environment in which git reaches one source, without prompts and without the user's configuration."""
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
        if source.scheme == "file":
            # git refuses repositories of other users, but who defined the queue has chosen to run this one's code.
            settings = Path(folder, "gitconfig")
            settings.write_text("[safe]\n\tdirectory = *\n")
            env["GIT_CONFIG_GLOBAL"] = str(settings)
        yield GitEnvironment(env, secret, options)


def _askpass(source: Source, user: str, folder: Path) -> dict[str, str]:
    """Return the variables by which git calls our script, which responds only for this source's host."""
    script = folder / "askpass"
    script.write_text(_ASKPASS)
    script.chmod(0o700)
    return {
        "GIT_ASKPASS": str(script),
        "RUNQY_GIT_HOST": source.host,
        "RUNQY_GIT_USER": user or "x-access-token",
    }


def _ssh_command(key: str, folder: Path) -> str:
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
    """Return whether this is the content of a key, not the path of its file."""
    return key.lstrip().startswith("-----BEGIN")

"""Asks a git server, on behalf of somebody who edits a queue, whether its branch is there."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings

from queues.definitions import Deployment
from queues.grants import find_added_grants
from queues.models import Queue
from queues.validation import problem_of_branch, problem_of_git_url
from runqy.audit.operations import record
from runqy.errors import DeploymentFailed, DeploymentRefused, RunqyError
from runqy.git.addresses import find_public_addresses, pinned_http, pinned_ssh
from runqy.git.commands import CommandMissing, Commands, CommandTimedOut
from runqy.git.credentials import GitCredentials, git_environment
from runqy.git.remotes import BranchMissing, Tip, find_tip
from runqy.git.sources import Source, parse_source
from vaults.opening import open_vaults

__all__ = ["CHECK_TIMEOUT_S", "RepositoryCheck", "check_repository"]

CHECK_TIMEOUT_S = 15.0
MOST_AT_ONCE = 2
"""In a process; a check takes a thread, and a server is not to be a tool for knocking at others."""

_places = threading.BoundedSemaphore(MOST_AT_ONCE)

_REASONS = (
    (
        r"could not read Username",
        "The server asks for a login: no public repository is there. For a private one choose a git token.",
    ),
    (r"Authentication failed|error: 40[13]", "The server refuses the git token, or the token may not read this."),
    (r"not found|does not exist|does not appear to be a git repository|error: 404", "The server shows no repository."),
    (r"error: 30\d|redirect", "The server redirects elsewhere. Enter the address that it leads to."),
    (r"certificate|SSL|TLS|GnuTLS", "The server's certificate is not trusted here."),
    (r"Permission denied", "The server refuses this server's ssh keys. Workers use their own, which may be let in."),
    (r"Host key verification failed", "The server shows another ssh host key than before."),
    (r"refused|unreachable|timed out|Failed to connect|Couldn't connect", "No git server answers at this address."),
)
"""What git says, and what people are told: never git's own words, which repeat what the other side sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryCheck:
    """What a look at a repository found."""

    is_ready: bool
    """Workers can deploy the branch, as far as this server can tell."""
    sentence: str


def check_repository(
    *, git_url: str, branch: str, git_token: str = "", queue: str = "", may_grant_vaults: bool = True
) -> RepositoryCheck:
    """Look whether a repository can be reached and has a branch or tag; `git_token` is a reference to a vault.

    The token is sent only to a host that its entry is declared for; without `may_grant_vaults` only if the queue of
    this name sends it to that host already. Each look is recorded, because it may show the token to the host.
    """
    if problem := problem_of_git_url(git_url):
        return _failed(f"Repository: {problem}.")
    if problem := problem_of_branch(branch):
        return _failed(f"Branch: {problem}.")
    if git_token and not may_grant_vaults and not _has_token(queue, git_url, git_token):
        return _failed(f"You may not send {git_token[:400]} to this host: it needs the permission vaults.change_vault.")
    asked = {"git_url": (None, git_url), "branch": (None, branch), "git_token": (None, git_token)}
    record(action="queue.repository_checked", object_kind="queue", object_name=queue, changes=asked)
    try:
        with _one_place():
            tip = _find_tip(parse_source(git_url=git_url, branch=branch), git_token)
    except RunqyError as error:
        return _failed(_sentence(error, branch))
    kind = "tag" if tip.ref.startswith("refs/tags/") else "branch"
    return RepositoryCheck(is_ready=True, sentence=f"Reachable. The {kind} {branch} is at {tip.commit[:12]}.")


def _has_token(queue: str, git_url: str, git_token: str) -> bool:
    """Return whether a queue's workers send this token to the host of this repository."""
    row = Queue.objects.filter(name=queue).first()
    asked = Deployment(git_url=git_url, startup_cmd="", git_token=git_token)
    return row is not None and not find_added_grants(row.as_spec().deployment, asked)


@contextmanager
def _one_place() -> Iterator[None]:
    """Take one of the few places for a check. Raises DeploymentRefused when others have them all."""
    if not _places.acquire(blocking=False):
        raise DeploymentRefused("Other checks are running. Try again in a few seconds.")
    try:
        yield
    finally:
        _places.release()


def _find_tip(source: Source, git_token: str) -> Tip:
    """Ask the source's server, at an address that it may have. Raises RunqyError."""
    token = open_vaults((), git_token=git_token, git_url=source.url).git_token if source.scheme == "https" else ""
    config, ssh_options = ["http.followRedirects=false"], ""
    if not settings.RUNQY_GIT_CHECK_PRIVATE:
        if source.scheme == "file":
            raise DeploymentRefused(
                "It is on a disk. The check looks there only if the setting RUNQY_GIT_CHECK_PRIVATE allows it."
            )
        addresses = find_public_addresses(source)
        config += pinned_http(source, addresses)
        ssh_options = pinned_ssh(source, addresses) if source.scheme == "ssh" else ""
    credentials = GitCredentials(token=token)
    with git_environment(source, credentials) as env:
        if source.scheme == "ssh":
            env.variables["GIT_SSH_COMMAND"] += f" -o ConnectTimeout=10 {ssh_options}"
        commands = Commands(secrets=credentials.secrets)
        return find_tip(source, commands, env=env, timeout_s=CHECK_TIMEOUT_S, config=config)


def _sentence(error: RunqyError, branch: str) -> str:
    """Return what people are told about what went wrong."""
    if isinstance(error, BranchMissing):
        return f"Reachable, but there is no branch or tag {branch}."
    if isinstance(error, CommandTimedOut):
        return f"The server did not answer within {CHECK_TIMEOUT_S:g} seconds."
    if isinstance(error, CommandMissing):
        return "This server has no git command, so it cannot look. Workers have their own."
    if isinstance(error, DeploymentFailed) and error.detail.startswith("git "):
        found = (sentence for said, sentence in _REASONS if re.search(said, error.detail))
        return next(found, "git cannot read a repository there.")
    return error.detail


def _failed(sentence: str) -> RepositoryCheck:
    """Return a look that found something wrong."""
    return RepositoryCheck(is_ready=False, sentence=sentence)

"""What the server reads of repositories: the check for users who edit a queue, and the newest commit of a branch."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.core.exceptions import ValidationError

from queues.definitions import Deployment
from queues.models import Queue
from queues.validators import validate_branch, validate_git_url
from queues.vault_grants import find_added_grants
from runqy.audit.operations import record
from runqy.core.git.commands import CommandMissing, CommandRunner, CommandTimedOut, LimitExceeded
from runqy.core.git.credentials import GitCredentials, git_environment
from runqy.core.git.limits import Limits
from runqy.core.git.remotes import BranchMissing, RemoteRef, find_public_addresses, pinned_http, pinned_ssh, resolve_ref
from runqy.core.git.sources import Source, parse_source
from runqy.errors import DeploymentFailed, DeploymentRefused, RunqyError
from vaults.worker_secrets import get_worker_secrets

CHECK_TIMEOUT_S = 15.0
TIP_TIMEOUT_S = 4.0
"""Git hosts wait for the response to a push for 5 to 10 seconds."""
CHECK_LIMITS = Limits(memory_bytes=256 << 20, disk_bytes=16 << 20)
CONCURRENT_CHECKS_MAX = 2
"""In a process. A check takes a thread, and the server must not be usable to scan other servers."""

log = structlog.get_logger(__name__)

_slots = threading.BoundedSemaphore(CONCURRENT_CHECKS_MAX)

_REASONS = (
    (
        r"could not read Username",
        "The repository does not exist or is private. Select a git token for a private repository.",
    ),
    (
        r"Authentication failed|error: 40[13]",
        "The server rejected the git token, or the token may not read this repository.",
    ),
    (r"not found|does not exist|does not appear to be a git repository|error: 404", "Repository not found."),
    (r"error: 30\d|redirect", "The server redirects to another URL. Enter that URL."),
    (r"[Cc]ertificate", "The certificate of the git server is not trusted."),
    (r"Permission denied", "The git server rejected the ssh key of this server. Workers use their own keys."),
    (r"Host key verification failed", "The ssh host key of the git server has changed."),
    (
        r"refused|unreachable|timed out|Failed to connect|Couldn't connect|not resolve host",
        "No git server can be reached at this address.",
    ),
    (
        r"SSL|TLS|tls_|[Ee]mpty reply|reset by peer|early EOF|unexpected disconnect|hung up|RPC failed",
        "The connection to the git server was lost. Try again; if it happens again, check the URL and the server.",
    ),
)
"""Patterns of git's errors, and their messages. Git's own text is not shown, since it contains text of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryCheck:
    is_ready: bool
    """Whether the branch can be fetched from this server."""
    message: str


def check_repository(
    *, git_url: str, branch: str, git_token: str = "", queue: str = "", may_grant_vaults: bool = True
) -> RepositoryCheck:
    """Check whether a repository can be reached and has a branch or tag. `git_token` is a reference to a vault.

    The token is sent only to a host that its entry is declared for; without `may_grant_vaults` only if the queue of
    this name already sends it to that host.
    """
    for label, validate, value in (("Repository", validate_git_url, git_url), ("Branch", validate_branch, branch)):
        try:
            validate(value)
        except ValidationError as error:
            return _failed(f"{label}: {error.messages[0]}")
    if git_token and not may_grant_vaults and not _has_token(queue, git_url, git_token):
        return _failed(f"You may not send {git_token[:400]} to this host: it needs the permission vaults.change_vault.")
    changes = {"git_url": (None, git_url), "branch": (None, branch), "git_token": (None, git_token)}
    # Recorded before the check, which may send the token to the host.
    record(action="queue.repository_checked", object_kind="queue", object_name=queue, changes=changes)
    try:
        with _check_slot():
            found = _resolve_ref(parse_source(git_url=git_url, branch=branch), git_token)
    except RunqyError as error:
        return _failed(_message(error, git_url, branch))
    kind = "tag" if found.ref.startswith("refs/tags/") else "branch"
    return RepositoryCheck(is_ready=True, message=f"Reachable. The {kind} {branch} is at {found.commit[:12]}.")


def find_tip(row: Queue) -> str:
    """Return the newest commit of a queue's branch; empty if this server cannot read the repository.

    Workers may be able to: they have ssh keys, and may be in another network.
    """
    try:
        with _check_slot():
            source = parse_source(git_url=row.git_url, branch=row.branch)
            return _resolve_ref(source, row.git_token, timeout_s=TIP_TIMEOUT_S).commit
    except RunqyError as error:
        log.info("tip_not_found", queue=row.name, error=error.code)
        return ""


def _has_token(queue: str, git_url: str, git_token: str) -> bool:
    """Return whether workers of a queue already send this token to the host of this repository."""
    row = Queue.objects.filter(name=queue).first()
    deployment = Deployment(git_url=git_url, startup_cmd="", git_token=git_token)
    return row is not None and not find_added_grants(row.as_spec().deployment, deployment)


@contextmanager
def _check_slot() -> Iterator[None]:
    """Take a slot for a check. Raise DeploymentRefused if all are busy."""
    if not _slots.acquire(blocking=False):
        raise DeploymentRefused("Other checks are running. Try again in a few seconds.")
    try:
        yield
    finally:
        _slots.release()


def _resolve_ref(source: Source, git_token: str, *, timeout_s: float = CHECK_TIMEOUT_S) -> RemoteRef:
    """Read the ref of a source from its server, if that has an allowed address. Raise RunqyError."""
    token = (
        get_worker_secrets((), git_token=git_token, git_url=source.url).git_token if source.scheme == "https" else ""
    )
    # A redirect would leave the host whose address and whose token are checked here.
    config, ssh_options = ["http.followRedirects=false"], ""
    if not settings.RUNQY_GIT_CHECK_PRIVATE:
        if source.scheme == "file":
            raise DeploymentRefused("A file URL is only checked if the setting RUNQY_GIT_CHECK_PRIVATE allows it.")
        addresses = find_public_addresses(source)
        # git must not resolve the name again: the second address could be a private one.
        config += pinned_http(source, addresses)
        ssh_options = pinned_ssh(source, addresses) if source.scheme == "ssh" else ""
    credentials = GitCredentials(token=token)
    with git_environment(source, credentials) as env:
        if source.scheme == "ssh":
            env.variables["GIT_SSH_COMMAND"] += f" -o ConnectTimeout=10 {ssh_options}"
        commands = CommandRunner(secrets=credentials.secrets)
        return resolve_ref(source, commands, env=env, timeout_s=timeout_s, limits=CHECK_LIMITS, config=config)


def _message(error: RunqyError, git_url: str, branch: str) -> str:
    if isinstance(error, BranchMissing):
        return f"The repository has no branch or tag {branch}."
    if isinstance(error, CommandTimedOut):
        return f"The server did not respond within {CHECK_TIMEOUT_S:g} seconds."
    if isinstance(error, LimitExceeded):
        return f"The server sends too much: {error.detail.partition(':')[0]}."
    if isinstance(error, CommandMissing):
        return "This server has no git command, so the check is not possible. Workers have their own."
    if isinstance(error, DeploymentFailed) and error.detail.startswith("git "):
        text = _without_names(error.detail, parse_source(git_url=git_url, branch=branch))
        found = (message for pattern, message in _REASONS if re.search(pattern, text))
        return next(found, "git cannot read the repository.")
    return error.detail


def _without_names(text: str, source: Source) -> str:
    # A quoted name, or the host, may contain the words of a reason.
    host = urlsplit(source.url).hostname or ""
    unquoted = re.sub(r"'[^']*'", "''", text)
    return re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", "", unquoted) if host else unquoted


def _failed(message: str) -> RepositoryCheck:
    return RepositoryCheck(is_ready=False, message=message)

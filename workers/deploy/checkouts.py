"""Create checkouts with git: shallow, of one branch, of only the requested folder, without hooks.

The deployments of a queue that are kept on this machine stand in `kept.json` in the queue's folder, the newest first.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from runqy.broker.replies import read_number
from runqy.broker.workers.records import LATEST_S
from runqy.core.formats.json_decoding import read_json
from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitEnvironment
from runqy.core.git.limits import Limits
from runqy.core.git.remotes import HARDENED_OPTIONS, RedirectRefused, RemoteRef, resolve_ref
from runqy.core.git.sources import Source
from runqy.errors import DeploymentFailed
from workers.deploy.virtualenvs import is_complete

FETCH_TIMEOUT_S = 600.0
LOCAL_TIMEOUT_S = 120.0
MEMORY_BYTES = 1 << 30
INFO_MAX_LENGTH = 200


class CommitInfo(msgspec.Struct, frozen=True):
    """What git says about a commit. Texts of the repository's authors."""

    subject: str = ""
    author: str = ""
    committed_at_s: int = 0


class KeptDeployment(msgspec.Struct, frozen=True):
    """A complete deployment."""

    url: str
    branch: str
    code_path: str
    commit: str
    checkout: str
    environment: str
    info: CommitInfo = CommitInfo()

    def has_source(self, source: Source) -> bool:
        return (self.url, self.branch, self.code_path) == (source.url, source.branch, source.code_path)

    @property
    def folders(self) -> tuple[str, str]:
        return self.checkout, self.environment


def read_kept(home: Path) -> list[KeptDeployment]:
    """Return the deployments whose folders still exist, the newest first."""
    try:
        kept = read_json((home / "kept.json").read_bytes(), list[KeptDeployment])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return []
    return [
        each
        for each in kept
        if (home / "checkouts" / each.checkout).is_dir() and is_complete(home / "environments" / each.environment)
    ]


def write_kept(home: Path, newest: KeptDeployment, before: Sequence[KeptDeployment], *, count: int) -> None:
    """Put a deployment first, and forget what is beyond `count`."""
    kept = [newest, *(each for each in before if each.folders != newest.folders)][:count]
    unfinished = home / ".kept.json.new"
    unfinished.write_bytes(msgspec.json.encode(kept))
    os.replace(unfinished, home / "kept.json")


_COMMIT_MISSING = re.compile(r"not our ref|unadvertised object|couldn't find remote ref")


class Git:
    """The git command for one source."""

    def __init__(self, source: Source, commands: CommandRunner, env: GitEnvironment, *, max_bytes: int) -> None:
        self._source = source
        self._limits = Limits(
            memory_bytes=MEMORY_BYTES, disk_bytes=max_bytes, setting="a tenth of RUNQY_MAX_DEPLOYMENT_BYTES"
        )
        self._commands = commands
        self._env = env

    def resolve_ref(self) -> RemoteRef:
        """Return the commit of the branch at the server, or of the tag if there is no such branch. Raise
        DeploymentFailed.
        """
        try:
            return self._resolve()
        except RedirectRefused:
            if self._source.url.endswith(".git"):
                raise
            # Hosting services redirect to the name with this ending, on the same host.
            self._source = replace(self._source, url=f"{self._source.url.rstrip('/')}.git")
            return self._resolve()

    def _resolve(self) -> RemoteRef:
        return resolve_ref(self._source, self._commands, env=self._env, timeout_s=FETCH_TIMEOUT_S, limits=self._limits)

    def require_ref(self, commit: str, folder: Path) -> None:
        """Raise DeploymentFailed unless a branch or tag of the server contains a commit. `folder` is empty."""
        self._limits = replace(self._limits, folders=(folder,))
        tips = self._git("ls-remote", "--heads", "--tags", "--", self._source.url, timeout_s=FETCH_TIMEOUT_S)
        if commit in {line.partition("\t")[0] for line in tips.splitlines()}:
            return
        self._git("init", "--quiet", "--bare", "--template=", str(folder))
        # Commits without files, where the server supports that.
        options = ["--quiet", "--filter=tree:0", "--no-tags", "--no-recurse-submodules"]
        refs = [f"+refs/{kind}/*:refs/{kind}/*" for kind in ("heads", "tags")]
        self._in(folder, "fetch", *options, "--", self._source.url, *refs, timeout_s=FETCH_TIMEOUT_S)
        try:
            found = self._in(folder, "for-each-ref", "--count=1", f"--contains={commit}")
        except DeploymentFailed:  # git does not know it
            found = ""
        if not found:
            raise DeploymentFailed(
                f"{self._source.url} has no branch or tag that contains the commit {commit[:12]}: push it to one first"
            )

    def check_out(self, ref: RemoteRef, folder: Path) -> str:
        """Check out the source into an empty folder; return its commit. Raise DeploymentFailed."""
        self._limits = replace(self._limits, folders=(folder,))
        self._git("init", "--quiet", "--template=", str(folder))
        self._in(folder, "remote", "add", "origin", self._source.url)
        if self._source.code_path:
            self._in(folder, "sparse-checkout", "set", "--cone", self._source.code_path)
        self._fetch(ref, folder)
        # As long as a fetch: a partial clone fetches the files here.
        self._in(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD", timeout_s=FETCH_TIMEOUT_S)
        return self._in(folder, "rev-parse", "HEAD").strip()

    def describe(self, checkout: Path) -> CommitInfo:
        """Return what git says about the commit of a checkout; nothing if it cannot be read."""
        try:
            output = self._in(checkout, "log", "-1", "--format=%s%x00%an%x00%ct")
        except DeploymentFailed:
            return CommitInfo()
        subject, author, committed_at = output.rstrip("\n").split("\0")
        # Authors can write any time, and the record of a worker with an impossible one is ignored.
        at_s = read_number(committed_at) or 0
        return CommitInfo(subject[:INFO_MAX_LENGTH], author[:INFO_MAX_LENGTH], at_s if at_s <= LATEST_S else 0)

    def _fetch(self, ref: RemoteRef, folder: Path) -> None:
        options = ["--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"]
        if self._source.code_path:
            options.append("--filter=blob:none")  # the contents of other folders are not needed
        try:
            self._in(folder, "fetch", *options, "origin", ref.ref, timeout_s=FETCH_TIMEOUT_S)
        except DeploymentFailed as error:
            if not _COMMIT_MISSING.search(error.detail):
                raise
            raise DeploymentFailed(
                f"{self._source.url} has no commit {ref.commit[:12]}: its history was rewritten, or the commit was "
                "never pushed"
            ) from error

    def _in(self, folder: Path, *args: str, timeout_s: float = LOCAL_TIMEOUT_S) -> str:
        return self._git("-C", str(folder), *args, timeout_s=timeout_s)

    def _git(self, *args: str, timeout_s: float = LOCAL_TIMEOUT_S) -> str:
        words, env = ["git", *HARDENED_OPTIONS, *self._env.options, *args], self._env
        return self._commands.run(words, env=env.variables, secret=env.secret, timeout_s=timeout_s, limits=self._limits)

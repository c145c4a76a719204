"""Create checkouts with git: shallow, of one branch, of only the requested folder, without hooks."""

from dataclasses import replace
from pathlib import Path

from runqy.git.commands import CommandRunner
from runqy.git.credentials import GitEnvironment
from runqy.git.limits import Limits
from runqy.git.remotes import HARDENED_OPTIONS, RedirectRefused, RemoteRef, resolve_ref
from runqy.git.sources import Source

FETCH_TIMEOUT_S = 600.0
LOCAL_TIMEOUT_S = 120.0
MEMORY_BYTES = 1 << 30


class Git:
    """The git command for one source."""

    def __init__(self, source: Source, commands: CommandRunner, env: GitEnvironment, *, max_bytes: int) -> None:
        self._source = source
        self._limits = Limits(memory_bytes=MEMORY_BYTES, disk_bytes=max_bytes, setting="RUNQY_MAX_CHECKOUT_BYTES")
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

    def _fetch(self, ref: RemoteRef, folder: Path) -> None:
        options = ["--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"]
        if self._source.code_path:
            options.append("--filter=blob:none")  # the contents of other folders are not needed
        self._in(folder, "fetch", *options, "origin", ref.ref, timeout_s=FETCH_TIMEOUT_S)

    def _in(self, folder: Path, *args: str, timeout_s: float = LOCAL_TIMEOUT_S) -> str:
        return self._git("-C", str(folder), *args, timeout_s=timeout_s)

    def _git(self, *args: str, timeout_s: float = LOCAL_TIMEOUT_S) -> str:
        words, env = ["git", *HARDENED_OPTIONS, *self._env.options, *args], self._env
        return self._commands.run(words, env=env.variables, secret=env.secret, timeout_s=timeout_s, limits=self._limits)

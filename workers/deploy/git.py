"""Makes checkouts with the git command: shallow, one branch, only the folder asked for, no hooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runqy.errors import DeploymentFailed
from workers.deploy.commands import Commands
from workers.deploy.sources import Source

FETCH_TIMEOUT_S = 600.0
LOCAL_TIMEOUT_S = 120.0
_SAFE = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "credential.helper="),
    *("-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false", "-c", "gc.auto=0"),
    *("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", "-c", "advice.detachedHead=false"),
)


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a branch or tag stands now."""

    ref: str
    commit: str


class Git:
    """The git command for one source."""

    def __init__(self, source: Source, commands: Commands, env: Mapping[str, str]) -> None:
        self._source = source
        self._commands = commands
        self._env = env

    def find_tip(self) -> Tip:
        """Ask the server where the branch, or else the tag, stands. Raises DeploymentFailed."""
        branch, tag = f"refs/heads/{self._source.branch}", f"refs/tags/{self._source.branch}"
        answer = self._git("ls-remote", "--", self._source.url, branch, tag, f"{tag}^{{}}", timeout_s=FETCH_TIMEOUT_S)
        refs = {ref: commit for commit, _, ref in (line.partition("\t") for line in answer.splitlines())}
        if branch in refs:
            return Tip(branch, refs[branch])
        if tag in refs:
            return Tip(tag, refs.get(f"{tag}^{{}}", refs[tag]))
        raise DeploymentFailed(f"{self._source.url} has no branch or tag {self._source.branch!r}")

    def check_out(self, tip: Tip, folder: Path) -> str:
        """Fill an empty folder with the source and return the commit it is at. Raises DeploymentFailed."""
        self._git("init", "--quiet", "--template=", str(folder))
        self._in(folder, "remote", "add", "origin", self._source.url)
        if self._source.code_path:
            self._in(folder, "sparse-checkout", "set", "--cone", self._source.code_path)
        self._fetch(tip, folder)
        # a partial clone gets the files it still lacks here
        self._in(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD", timeout_s=FETCH_TIMEOUT_S)
        return self._in(folder, "rev-parse", "HEAD").strip()

    def _fetch(self, tip: Tip, folder: Path) -> None:
        """Get one commit; of a folder only, without the contents of the other files."""
        options = ["--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"]
        if self._source.code_path:
            options.append("--filter=blob:none")
        self._in(folder, "fetch", *options, "origin", tip.ref, timeout_s=FETCH_TIMEOUT_S)

    def _in(self, folder: Path, *args: str, timeout_s: float = LOCAL_TIMEOUT_S) -> str:
        return self._git("-C", str(folder), *args, timeout_s=timeout_s)

    def _git(self, *args: str, timeout_s: float = LOCAL_TIMEOUT_S) -> str:
        return self._commands.run(["git", *_SAFE, *args], env=self._env, timeout_s=timeout_s)

"""Asks git servers where a branch or tag stands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runqy.errors import DeploymentFailed
from runqy.git.commands import Commands
from runqy.git.credentials import GitEnvironment
from runqy.git.sources import Source

SAFE = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "credential.helper="),
    *("-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false", "-c", "gc.auto=0"),
    *("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", "-c", "advice.detachedHead=false"),
)
"""Options for every call: no hooks, no helpers, no stalled transfers."""


_REDIRECT = re.compile(r"error: 30[12378]\b|redirect")


class BranchMissing(DeploymentFailed):
    """The repository has no such branch or tag."""


class RedirectRefused(DeploymentFailed):
    """The server redirects elsewhere, where a token does not go."""


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a branch or tag stands now."""

    ref: str
    commit: str


def find_tip(
    source: Source, commands: Commands, *, env: GitEnvironment, timeout_s: float, config: Sequence[str] = ()
) -> Tip:
    """Ask the server where the branch, or else the tag, stands.

    `config` are settings of git for this call, `name=value`. Raises DeploymentFailed, of which BranchMissing is one.
    """
    branch, tag = f"refs/heads/{source.branch}", f"refs/tags/{source.branch}"
    options = [word for setting in config for word in ("-c", setting)]
    asked = ["git", *SAFE, *env.options, *options, "ls-remote", "--", source.url, branch, tag, f"{tag}^{{}}"]
    try:
        answer = commands.run(asked, env=env.variables, secret=env.secret, timeout_s=timeout_s)
    except DeploymentFailed as error:
        if env.secret and _REDIRECT.search(error.detail):
            raise RedirectRefused(
                f"{error.detail}. The server redirects, and git follows nowhere with a token: "
                "set git_url to the address that it leads to."
            ) from error
        raise
    refs = {ref: commit for commit, _, ref in (line.partition("\t") for line in answer.splitlines())}
    if branch in refs:
        return Tip(branch, refs[branch])
    if tag in refs:
        return Tip(tag, refs.get(f"{tag}^{{}}", refs[tag]))
    raise BranchMissing(f"{source.url} has no branch or tag {source.branch!r}")

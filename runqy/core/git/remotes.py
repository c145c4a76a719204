"""Resolve branches and tags at git servers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitEnvironment
from runqy.core.git.limits import Limits
from runqy.core.git.sources import Source
from runqy.errors import DeploymentFailed

HARDENED_OPTIONS = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "credential.helper="),
    *("-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=false", "-c", "gc.auto=0"),
    # Larger files are streamed instead of being held in memory.
    *("-c", "core.bigFileThreshold=16m"),
    *("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", "-c", "advice.detachedHead=false"),
)
"""Options of every call of git: no hooks, no helpers, no stalled transfers."""


_REDIRECT = re.compile(r"error: 30[12378]\b|redirect")


class BranchMissing(DeploymentFailed):
    """The repository has no such branch or tag."""


class RedirectRefused(DeploymentFailed):
    """The server redirects to another host, which must not get the token."""


@dataclass(frozen=True, slots=True)
class RemoteRef:
    """A branch or tag and its commit."""

    ref: str
    commit: str


def resolve_ref(  # noqa: PLR0913 (what git is run with)
    source: Source,
    commands: CommandRunner,
    *,
    env: GitEnvironment,
    timeout_s: float,
    limits: Limits,
    config: Sequence[str] = (),
) -> RemoteRef:
    """Return the commit of the branch, or of the tag if there is no such branch.

    `config` is a list of git settings for this call, each as `name=value`. Raise DeploymentFailed, or its subclass
    BranchMissing.
    """
    branch, tag = f"refs/heads/{source.branch}", f"refs/tags/{source.branch}"
    options = [word for setting in config for word in ("-c", setting)]
    args = [
        "git",
        *HARDENED_OPTIONS,
        *env.options,
        *options,
        "ls-remote",
        "--",
        source.url,
        branch,
        tag,
        f"{tag}^{{}}",
    ]
    try:
        output = commands.run(args, env=env.variables, secret=env.secret, timeout_s=timeout_s, limits=limits)
    except DeploymentFailed as error:
        if env.secret and _REDIRECT.search(error.detail):
            raise RedirectRefused(
                f"{error.detail}. The server redirects, and git does not follow redirects with a token. "
                "Set git_url to the address that it redirects to."
            ) from error
        raise
    refs = {ref: commit for commit, _, ref in (line.partition("\t") for line in output.splitlines())}
    if branch in refs:
        return RemoteRef(branch, refs[branch])
    if tag in refs:
        # An annotated tag is an object of its own; `^{}` names the commit that it points to.
        return RemoteRef(tag, refs.get(f"{tag}^{{}}", refs[tag]))
    raise BranchMissing(f"{source.url} has no branch or tag {source.branch!r}")

"""Resolve branches and tags at git servers.

Only servers on the public internet are asked: their addresses are resolved and checked, and git is pinned to them.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from runqy.core.formats.addresses import is_public
from runqy.core.git.commands import CommandRunner
from runqy.core.git.credentials import GitEnvironment
from runqy.core.git.limits import Limits
from runqy.core.git.sources import Source
from runqy.errors import DeploymentFailed, DeploymentRefused

_HOST = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")
_PORTS = {"https": 443, "ssh": 22}


def find_public_addresses(source: Source) -> list[str]:
    """Return all addresses of a source's host.

    Raise DeploymentRefused if one of them is not public, and DeploymentFailed for an unknown host.
    """
    match = _HOST.fullmatch(source.host)
    if match is None:
        raise DeploymentRefused("The host may contain only letters, digits, dots and hyphens.")
    name = match["name"].strip("[]")
    try:
        found = socket.getaddrinfo(name, int(match["port"] or _PORTS[source.scheme]), type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise DeploymentFailed(f"The host {name} cannot be resolved.") from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not all(map(is_public, addresses)):
        raise DeploymentRefused(
            f"{name} is in a private network or on this machine. Set RUNQY_GIT_CHECK_PRIVATE to allow the check there."
        )
    return addresses


def pinned_http(source: Source, addresses: Sequence[str]) -> list[str]:
    """Return the git settings (2.37 and later) that pin an https request to these addresses, without a proxy."""
    name, _, port = source.host.rpartition(":") if re.search(r":\d+$", source.host) else (source.host, "", "443")
    pins = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    pinned = [] if name.startswith("[") else [f"http.curloptResolve={name}:{port}:{pins}"]
    return ["http.proxy=", *pinned]


def pinned_ssh(source: Source, addresses: Sequence[str]) -> str:
    """Return the options that pin ssh to the first of these addresses, whatever its configuration files say."""
    name = _HOST.fullmatch(source.host)
    alias = name["name"].strip("[]") if name else source.host
    return f"-F none -o ProxyCommand=none -o HostName={addresses[0]} -o HostKeyAlias={alias}"


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

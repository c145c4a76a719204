"""Restrict git to servers on the public internet: resolve their addresses, check them, and pin git to them."""

import re
import socket
from collections.abc import Sequence

from runqy.core.formats.addresses import is_public
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

"""Restrict git to servers on the public internet: resolve their addresses, check them, and pin git to them."""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from runqy.errors import DeploymentFailed, DeploymentRefused
from runqy.git.sources import Source

_HOST = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")
_NAT64 = ip_network("64:ff9b::/96")
_UNICAST = ip_network("2000::/3")
"""The part of IPv6 that is assigned to the public internet. Other global ranges come from older standards."""

_METADATA = frozenset({ip_address("168.63.129.16")})
"""Metadata services of clouds whose address is in the public range. The others are link-local."""

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
    if not all(map(_is_public, addresses)):
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


def _is_public(text: str) -> bool:
    """Return whether an address is public, and every address that is embedded in it."""
    return all(map(_is_assigned, _embedded_addresses(ip_address(text.partition("%")[0]))))


def _is_assigned(address: IPv4Address | IPv6Address) -> bool:
    is_known = address.version == 4 or address in _UNICAST
    return is_known and address.is_global and not address.is_multicast and address not in _METADATA


def _embedded_addresses(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return an address and the IPv4 addresses embedded in it by 6to4 or Teredo. A mapped or NAT64 address is its IPv4
    address.
    """
    if isinstance(address, IPv4Address):
        return [address]
    embedded = [address.sixtofour, *(address.teredo or ())]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address, *(each for each in embedded if each is not None)]

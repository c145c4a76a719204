"""Tells which addresses of git servers belong to the public internet, and keeps git to the ones that were looked at."""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from runqy.errors import DeploymentFailed, DeploymentRefused
from runqy.git.sources import Source

__all__ = ["find_public_addresses", "pinned_http", "pinned_ssh"]

_HOST = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")
_NAT64 = ip_network("64:ff9b::/96")
_UNICAST = ip_network("2000::/3")
"""All of IPv6 that is given out to the public internet; what else looks global is left over from older standards."""

_METADATA = frozenset({ip_address("168.63.129.16")})
"""Services of clouds for their own machines that have an address of the public range; the others are link-local."""

_PORTS = {"https": 443, "ssh": 22}


def find_public_addresses(source: Source) -> list[str]:
    """Return all addresses of a source's host.

    Raises DeploymentRefused when one of them is not of the public internet, DeploymentFailed for an unknown host.
    """
    match = _HOST.fullmatch(source.host)
    if match is None:
        raise DeploymentRefused("The host is not spelled in letters, digits, dots and hyphens.")
    name = match["name"].strip("[]")
    try:
        found = socket.getaddrinfo(name, int(match["port"] or _PORTS[source.scheme]), type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise DeploymentFailed(f"The host {name} is not known to the name service.") from error
    addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
    if not all(map(_is_public, addresses)):
        raise DeploymentRefused(
            f"{name} is in a private network or on this machine. "
            "The check looks there only if the setting RUNQY_GIT_CHECK_PRIVATE allows it."
        )
    return addresses


def pinned_http(source: Source, addresses: Sequence[str]) -> list[str]:
    """Return the settings of git (2.37 and later) that keep a request to these addresses, with no proxy or redirect."""
    name, _, port = source.host.rpartition(":") if re.search(r":\d+$", source.host) else (source.host, "", "443")
    places = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    pinned = [] if name.startswith("[") else [f"http.curloptResolve={name}:{port}:{places}"]
    return ["http.proxy=", *pinned]


def pinned_ssh(source: Source, addresses: Sequence[str]) -> str:
    """Return the options of ssh that keep it to the first of these addresses, past what its own files may say."""
    name = _HOST.fullmatch(source.host)
    alias = name["name"].strip("[]") if name else source.host
    return f"-F none -o ProxyCommand=none -o HostName={addresses[0]} -o HostKeyAlias={alias}"


def _is_public(text: str) -> bool:
    """Tell whether an address, and one that it stands for, is of the public internet."""
    return all(map(_is_given_out, _meanings(ip_address(text.partition("%")[0]))))


def _is_given_out(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address by itself is one of the public internet."""
    is_known = address.version == 4 or address in _UNICAST
    return is_known and address.is_global and not address.is_multicast and address not in _METADATA


def _meanings(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return an address with the IPv4 address that it carries, if it does: mapped, by 6to4, Teredo or NAT64."""
    if isinstance(address, IPv4Address):
        return [address]
    carried = [address.sixtofour, *(address.teredo or ())]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address, *(each for each in carried if each is not None)]

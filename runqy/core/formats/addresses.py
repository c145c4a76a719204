"""Which IP addresses are on the public internet, whatever they are written or embedded in."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_NAT64 = ip_network("64:ff9b::/96")
_UNICAST = ip_network("2000::/3")
"""The part of IPv6 that is assigned to the public internet. Other global ranges come from older standards."""

_SPECIAL = (ip_network("192.0.0.0/24"), ip_network("3fff::/20"))
"""Protocol assignments and documentation, which Python 3.11 takes for public."""

_METADATA = frozenset({ip_address("168.63.129.16")})
"""Metadata services of clouds whose address is in the public range. The others are link-local."""


def is_public(text: str) -> bool:
    """Return whether an address is public, and every address that is embedded in it."""
    return all(map(_is_assigned, _embedded_addresses(_parse(text))))


def is_in_networks(text: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Return whether an address is in one of these networks; a mapped or NAT64 address is its IPv4 address."""
    address = _embedded_addresses(_parse(text))[0]
    return any(address in network for network in networks)


def _parse(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text.partition("%")[0])


def _is_assigned(address: IPv4Address | IPv6Address) -> bool:
    is_known = (address.version == 4 or address in _UNICAST) and not any(address in network for network in _SPECIAL)
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

"""Normalize hosts of git servers, so that a token is sent only to the host it is for."""

import re
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import urlsplit

HOST_RULE = "A host is written like github.com or git.example.com:8443, in ASCII and without a scheme, user or path"

_HOST = re.compile(
    r"(?:(?P<name>[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?)\.?|\[(?P<ipv6>[0-9a-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?"
)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_HTTPS_PORT = 443


def normalize_host(text: str) -> str | None:
    """Return the normal form of a host, with its port unless that is 443; None if it is invalid."""
    match = _HOST.fullmatch(text.lower()) if text.isascii() else None
    if match is None:
        return None
    port = int(match["port"] or _HTTPS_PORT)
    name = match["name"] or _normalize_ipv6(match["ipv6"])
    if not name or not 1 <= port <= 65535:
        return None
    return name if port == _HTTPS_PORT else f"{name}:{port}"


def is_https(url: str) -> bool:
    """Return whether a URL is https, the only scheme with which git sends a token."""
    return url.strip()[:6].lower() == "https:"


def find_https_host(url: str) -> str | None:
    """Return the normal form of the host that git contacts for an https URL.

    None if the host is not ASCII, or if the URL has a user: programs parse such URLs differently.
    """
    if _UNPRINTABLE.search(url) or not is_https(url):
        return None
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        return None
    return normalize_host(netloc)


def _normalize_ipv6(text: str) -> str:
    try:
        return f"[{IPv6Address(text).compressed}]"
    except AddressValueError:
        return ""

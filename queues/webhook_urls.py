"""The URLs that webhooks may be sent to, and the hosts that a queue allows for those of its tasks."""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from runqy.core.environment.variables import Network
from runqy.core.formats.addresses import is_in_networks, is_public
from runqy.core.git.sources import HOST_RULE, normalize_host

TASK_EVENTS = ("task.completed", "task.archived")
"""What can be told of a task."""
URL_MAX_LENGTH = 2000
HOSTS_MAX = 100
_PORTS = {"http": 80, "https": 443}
URL_RULE = "Must be a URL such as https://hooks.example.com/runqy, without a user or a fragment."


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """A URL of a webhook, parsed as it will be requested."""

    scheme: str
    host: str
    port: int

    @property
    def is_https(self) -> bool:
        return self.scheme == "https"

    @property
    def allowed_as(self) -> str:
        """The host as `webhook_hosts` has it: without the port of https."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return normalize_host(f"{name}:{self.port}") or ""


def parse_url(text: str, *, may_have_user: bool = False) -> WebhookUrl:
    """Parse a URL. Raise ValueError, which says what is wrong, if it is none that messages may be sent to."""
    try:
        url, parts = httpx2.URL(text), urlsplit(text)
        default = _PORTS.get(url.scheme, 0)
        # Not `host`, which decodes international names: these are compared, resolved and sent as the URL has them.
        found = WebhookUrl(url.scheme, url.raw_host.decode().lower(), url.port or default)
        is_valid = (
            len(text) <= URL_MAX_LENGTH
            and text.isascii()
            and text.isprintable()
            and " " not in text
            and bool(found.allowed_as)
            # What two parsers read differently could be checked as one host and requested as another.
            and (parts.hostname or "").lower() == found.host
            and (default if parts.port is None else parts.port) == found.port
        )
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(URL_RULE) from error
    if not url.scheme:
        raise ValueError("Must begin with https://, as https://hooks.example.com/runqy does.")
    if not default:
        raise ValueError(f"Begins with {url.scheme[:32]}:, must begin with https://.")
    if url.userinfo and not may_have_user:
        raise ValueError("Must have no user and no password.")
    if url.fragment:
        raise ValueError("Must have no fragment, which is the part from # on.")
    if not is_valid:
        raise ValueError(URL_RULE)
    return found


def list_literal_addresses(url: WebhookUrl) -> list[str]:
    """Return the address that the host of a URL is, in any spelling; nothing for a name. Looks nothing up."""
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(info[4][0]) for info in found]


def find_address_error(url: WebhookUrl, addresses: Sequence[str], networks: Sequence[Network]) -> str:
    """Return why messages may not be sent to a host with these addresses; empty if they may."""
    is_open = [is_in_networks(address, networks) for address in addresses]
    if not all(opened or is_public(address) for opened, address in zip(is_open, addresses, strict=True)):
        return f"{url.host} is in a private network or on this machine. RUNQY_WEBHOOK_NETWORKS opens networks."
    if not url.is_https and not all(is_open):
        return "The URL must begin with https://: RUNQY_WEBHOOK_NETWORKS does not open its host's network."
    return ""


def get_origin(url: str) -> str:
    """Return scheme, host and port of a URL, which say where it is but not its secret path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def normalize_hosts(hosts: Iterable[str]) -> list[str]:
    """Return hosts in their normal form, sorted, each once. Raise ValueError."""
    normalized = {host: normalize_host(host) for host in hosts}
    if wrong := [host for host, spelled in normalized.items() if spelled is None]:
        raise ValueError(f"{wrong[0][:80]!r}: {HOST_RULE}.")
    if len(normalized) > HOSTS_MAX:
        raise ValueError(f"A queue has at most {HOSTS_MAX} hosts.")
    return sorted({spelled for spelled in normalized.values() if spelled})


def find_host_error(url: str, hosts: Iterable[str]) -> str:
    """Return why a task may not name a URL as its webhook; empty if it may. Raise ValueError for an invalid URL."""
    host, allowed = parse_url(url).allowed_as, list(hosts)
    if host in allowed:
        return ""
    names = f"only {', '.join(allowed)}" if allowed else "no hosts"
    return f"The queue allows {names} for webhooks of tasks: add {host} to its webhook_hosts."

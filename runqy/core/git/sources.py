"""Rules for what may be deployed: URLs, hosts, branches and paths that are safe to pass to git.

A queue is validated by the same functions when it is saved, so that every saved queue can be deployed. Hosts are
normalized, so that a token is sent only to the host it is for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote, urlsplit

from runqy.errors import DeploymentRefused

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


_SCP_FORM = re.compile(r"(?P<user>[A-Za-z0-9._]+)@(?P<host>[A-Za-z0-9.][A-Za-z0-9.-]*):(?P<path>[^/:-][^:]*)")
_BAD_IN_BRANCH = re.compile(r"[~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|/\.|[./]$|^[./-]")
_BAD_IN_PATH = re.compile(r"[*?\[\]\\!#]")


@dataclass(frozen=True, slots=True)
class Source:
    """Code in git: URL, branch or tag, and folder."""

    url: str
    branch: str
    code_path: str

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Host and port of the URL, without a user."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


def parse_source(*, git_url: str, branch: str, code_path: str = "") -> Source:
    """Return a source that is safe to pass to git. Raise DeploymentRefused."""
    return Source(
        _parse("git_url", normalize_url, git_url),
        _parse("branch", normalize_branch, branch or "main"),
        parse_path(code_path, "code_path"),
    )


def parse_path(path: str, field: str) -> str:
    """Return a relative path inside a checkout. Raise DeploymentRefused with the name of the field."""
    return _parse(field, normalize_path, path)


def _parse(field: str, normalize: Callable[[str], str], text: str) -> str:
    try:
        return normalize(text)
    except ValueError as error:
        raise DeploymentRefused(f"{field}: {error}") from error


def normalize_url(url: str) -> str:
    """Return an https, ssh or file URL; `user@host:path` becomes an ssh URL. Raise ValueError."""
    if form := _SCP_FORM.fullmatch(url):
        url = f"ssh://{form['user']}@{form['host']}/{form['path']}"
    if url.startswith("-") or _UNPRINTABLE.search(url):
        raise ValueError("Must not start with '-' or contain spaces or control characters.")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises ValueError for an invalid port)
    except ValueError as error:
        raise ValueError("Must be a valid URL.") from error
    if parts.scheme not in {"https", "ssh", "file"}:
        raise ValueError("Must be an https, ssh or file URL, or user@host:path with a relative path.")
    if parts.password or (parts.scheme == "https" and parts.username):
        raise ValueError("Must not contain credentials; use git_token.")
    if parts.scheme == "file" and (parts.netloc not in {"", "localhost"} or not parts.path.startswith("/")):
        raise ValueError("A file URL must be file:/// with an absolute path.")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError("Must have a host.")
    user_and_host = unquote(parts.netloc)  # git passes it to ssh decoded, where a leading '-' is an option
    if user_and_host.startswith("-") or user_and_host.rpartition("@")[2].startswith("-"):
        raise ValueError("Must not have a user or host that starts with '-'.")
    if not parts.path.strip("/"):
        raise ValueError("Must have the path of a repository.")
    return url


def repository_name(url: str) -> tuple[str, str]:
    """Return host and path of a repository, which are the same in all of its URLs: https, ssh and `user@host:path`.

    Ports are left out, since https and ssh have different ones. Raise ValueError for what is no URL.
    """
    if form := _SCP_FORM.fullmatch(url):
        host, path = form["host"], form["path"]
    else:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path
    return host.lower(), unquote(path).strip("/").removesuffix(".git").lower()


def normalize_branch(branch: str) -> str:
    """Return a valid name of a branch or tag, by the rules of git-check-ref-format. Raise ValueError."""
    if _UNPRINTABLE.search(branch) or _BAD_IN_BRANCH.search(branch):
        raise ValueError(f"{branch[:250]!r} is not a valid branch name.")
    return branch


def normalize_path(path: str) -> str:
    """Return a relative path inside a checkout, without a leading './' or trailing '/'. Raise ValueError."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    is_outside = path.startswith("/") or ".." in parts or ".git" in parts
    if is_outside or path.startswith("-") or any(ord(c) < 32 for c in path) or _BAD_IN_PATH.search(path):
        raise ValueError(f"{path!r} must be a plain path inside the repository.")
    return "/".join(parts)

"""Owns the rules for what may be deployed: URLs, branches and paths that git is allowed to see."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from runqy.errors import DeploymentRefused

_SCP_FORM = re.compile(r"(?P<user>[A-Za-z0-9._]+)@(?P<host>[A-Za-z0-9.][A-Za-z0-9.-]*):(?P<path>[^/:-][^:]*)")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_BAD_IN_BRANCH = re.compile(r"[~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|/\.|[./]$|^[./-]")
_BAD_IN_PATH = re.compile(r"[*?\[\]\\!#]")


@dataclass(frozen=True, slots=True)
class Source:
    """Code in git: where, which branch or tag, and which folder of it."""

    url: str
    branch: str
    code_path: str

    @property
    def scheme(self) -> str:
        """Return https, ssh or file."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Return host and port as they stand in the URL, without a user."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


def parse_source(*, git_url: str, branch: str, code_path: str = "") -> Source:
    """Return a source that is safe to hand to git. Raises DeploymentRefused."""
    return Source(_checked_url(git_url), _checked_branch(branch or "main"), checked_path(code_path, "code_path"))


def _checked_url(url: str) -> str:
    """Allow https, ssh (also as user@host:path) and file URLs, without a password inside."""
    if form := _SCP_FORM.fullmatch(url):
        url = f"ssh://{form['user']}@{form['host']}/{form['path']}"
    if url.startswith("-") or _UNPRINTABLE.search(url):
        raise DeploymentRefused("git_url must not start with '-' nor contain blanks or control characters")
    parts = urlsplit(url)
    if parts.scheme not in {"https", "ssh", "file"}:
        raise DeploymentRefused("git_url must be an https, ssh or file URL")
    if parts.password or (parts.scheme == "https" and parts.username):
        raise DeploymentRefused("git_url must not contain credentials; give them as git_token")
    if parts.scheme == "file" and (parts.netloc not in {"", "localhost"} or not parts.path.startswith("/")):
        raise DeploymentRefused("a file git_url must be file:/// and an absolute path of this machine")
    if parts.scheme != "file" and (not parts.hostname or parts.hostname.startswith("-")):
        raise DeploymentRefused("git_url names no host")
    return url


def _checked_branch(branch: str) -> str:
    """Allow what git allows as the name of a branch or tag."""
    if _UNPRINTABLE.search(branch) or _BAD_IN_BRANCH.search(branch):
        raise DeploymentRefused(f"{branch!r} cannot be the name of a branch")
    return branch


def checked_path(path: str, name: str) -> str:
    """Return a path inside a checkout, without a leading './' or trailing '/'. Raises DeploymentRefused."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    is_outside = path.startswith("/") or ".." in parts or ".git" in parts
    if is_outside or path.startswith("-") or any(ord(c) < 32 for c in path) or _BAD_IN_PATH.search(path):
        raise DeploymentRefused(f"{name} {path!r} must be a plain path inside the repository")
    return "/".join(parts)

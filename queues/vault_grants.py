"""The access of queues to vaults, compared before and after a change by clients and users who may not extend it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from queues.definitions import Deployment
from runqy.core.git.sources import find_https_host, is_https
from runqy.errors import KeyInsufficient
from vaults.entry_rules import parse_reference

LIMITED_KEY = "This key is limited to queues"
NO_VAULT_PERMISSION = "You may not change vaults (vaults.change_vault)"
"""Reasons to refuse more access."""

_SCP_LIKE = re.compile(r"(?:[^@/]*@)?(?P<host>[^:/@]+):")


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """The access of a queue to an entry, as its git token, or to a whole vault, as environment variables."""

    vault: str
    key: str = ""
    """Empty for the whole vault."""

    def __str__(self) -> str:
        return f"vault://{self.vault}/{self.key}" if self.key else f"the vault {self.vault}"


def find_added_grants(before: Deployment | None, after: Deployment) -> list[Grant]:
    """Return the grants of a deployment that the previous one did not have.

    The grant of an entry does not include its vault, and that of a vault does not include its entries as git tokens.
    Code from another host has no previous grants.
    """
    known: set[Grant] = set()
    if before is not None and _origin(before.git_url) == _origin(after.git_url):
        known |= set(_grants(before))
    return sorted(set(_grants(after)) - known)


def refuse_added_grants(before: Deployment | None, after: Deployment, *, reason: str) -> None:
    added = find_added_grants(before, after)
    if not added:
        return
    is_other_host = before is not None and _origin(before.git_url) != _origin(after.git_url)
    recipient = "code from another host" if is_other_host else "this queue"
    raise KeyInsufficient(f"{reason}, and the change would give {recipient} {', '.join(map(str, added))}.")


def _grants(deployment: Deployment) -> Iterator[Grant]:
    for vault in deployment.vaults:
        yield Grant(vault)
    if reference := parse_reference(deployment.git_token):
        yield Grant(reference.vault, reference.key)


def _origin(git_url: str) -> tuple[str, str]:
    """Return scheme and host of a repository. A URL that cannot be parsed counts as a host of its own."""
    if is_https(git_url):
        return "https", find_https_host(git_url) or git_url
    if "://" not in git_url:
        match = _SCP_LIKE.match(git_url)
        return "ssh", match["host"].lower().rstrip(".") if match else git_url
    # User, default port and a trailing dot do not make another host.
    parts = urlsplit(git_url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower().removesuffix(":22").rstrip(".")

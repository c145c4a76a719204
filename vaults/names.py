"""Rules for the names and values in vaults, which become environment variables of the workers' children."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from runqy.git.hosts import HOST_RULE, find_https_host, is_https, normalize_host

VALUE_MAX_BYTES = 64 << 10
GIT_HOSTS_MAX = 20
VAULT_RULE = "a vault's name has 1 to 64 letters, digits, `_` and `-`, and begins with a letter or digit"
VARIABLE_RULE = "a variable's name has letters, digits and `_`, and does not begin with a digit"

_VAULT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_REFERENCE = re.compile(rf"vault://(?P<vault>{_VAULT.pattern})/(?P<key>{_VARIABLE.pattern})", re.ASCII)
_RESERVED = frozenset({"PATH", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONSTARTUP"})
_RESERVED_PREFIX = "RUNQY_"
_RESERVED_VAULTS = frozenset({"import"})


class EntryUsage(StrEnum):
    """What an entry may be used for."""

    ENVIRONMENT = "environment"  # a variable of the processes that run tasks
    GIT_TOKEN = "git_token"  # noqa: S105 (sent to git servers, never to tasks)
    BOTH = "both"

    @property
    def is_variable(self) -> bool:
        """Return whether tasks get it."""
        return self is not EntryUsage.GIT_TOKEN

    @property
    def is_git_token(self) -> bool:
        """Return whether git servers get it."""
        return self is not EntryUsage.ENVIRONMENT


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a value is: an entry of a vault."""

    vault: str
    key: str

    def __str__(self) -> str:
        """Spell it as people do."""
        return f"vault://{self.vault}/{self.key}"


def problem_of_vault_name(name: str) -> str | None:
    """Return what is wrong with the name of a vault, or None."""
    if name in _RESERVED_VAULTS:
        return f"{name} is reserved: it is a path of the API"
    if _VAULT.fullmatch(name):
        return None
    return VAULT_RULE


def problem_of_description(text: str) -> str | None:
    """Return what is wrong with what people read about a vault, or None."""
    return "a description has no NUL, which no database keeps" if "\0" in text else None


def problem_of_variable(name: str) -> str | None:
    """Return what is wrong with the name of an entry or environment variable, or None."""
    if not _VARIABLE.fullmatch(name):
        return VARIABLE_RULE
    if name in _RESERVED or name.startswith(_RESERVED_PREFIX):
        return f"{name} is reserved for the worker"
    return None


def problem_of_value(value: str) -> str | None:
    """Return what is wrong with the value of an entry or environment variable, or None; never shows it."""
    if not value:
        return "a value is not empty"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "a value is valid Unicode"
    if size > VALUE_MAX_BYTES:
        return "a value has at most 64 KiB"
    if "\0" in value:
        return "a value has no NUL, which no environment variable can hold"
    return None


def normalize_git_hosts(hosts: Iterable[str]) -> list[str]:
    """Return hosts in their one spelling and order. Raises ValueError with what is wrong."""
    normalized = {host: normalize_host(host) for host in hosts}
    if wrong := [host for host, spelled in normalized.items() if spelled is None]:
        raise ValueError(f"{wrong[0][:80]!r}: {HOST_RULE}")
    if len(normalized) > GIT_HOSTS_MAX:
        raise ValueError(f"an entry has at most {GIT_HOSTS_MAX} hosts")
    return sorted({spelled for spelled in normalized.values() if spelled})


def problem_of_usage(usage: EntryUsage, git_hosts: Iterable[str]) -> str | None:
    """Return what is wrong with the usage of an entry and its hosts together, or None."""
    has_hosts = bool(list(git_hosts))
    if usage.is_git_token and not has_hosts:
        return "a git token names the hosts that it may be sent to"
    if has_hosts and not usage.is_git_token:
        return "only a git token has hosts; set its usage to git_token or both"
    return None


def problem_of_git_token(
    reference: Reference, *, usage: EntryUsage, git_hosts: Iterable[str], git_url: str
) -> str | None:
    """Return why an entry may not be sent to the host of a repository, or None. Only https sends a token."""
    if not is_https(git_url):
        return None
    host = find_https_host(git_url)
    if host is None:
        return f"The host in {git_url[:200]} is not spelled plainly, so no git token is sent to it: {HOST_RULE}."
    if usage.is_git_token and host in git_hosts:
        return None
    hosts = f"only for {', '.join(git_hosts)}" if usage.is_git_token else "not declared as a git token"
    return (
        f"The entry {reference} is {hosts}, and may not be sent to {host}: add {host} to its git hosts, "
        "with the permission to change the vault, or change git_token."
    )


def parse_reference(text: str) -> Reference | None:
    """Return the entry that `vault://<vault>/<key>` means, or None for any other text."""
    match = _REFERENCE.fullmatch(text)
    return Reference(match["vault"], match["key"]) if match else None


def masked(value: str) -> str:
    """Return a secret as it may be shown: below 12 characters nothing of it, else two at either end."""
    return "****" if len(value) < 12 else f"{value[:2]}****{value[-2:]}"

"""Rules for names, values, usage and git hosts of vault entries. Without Django, because workers use them too."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from runqy.core.formats.names import VARIABLE_NAME, VARIABLE_NAME_RULE, VAULT_NAME, VAULT_NAME_RULE
from runqy.core.git.sources import HOST_RULE, find_https_host, is_https, normalize_host

VALUE_MAX_BYTES = 64 << 10
GIT_HOSTS_MAX = 20

_VAULT = re.compile(VAULT_NAME)
_VARIABLE = re.compile(VARIABLE_NAME)
_REFERENCE = re.compile(f"vault://(?P<vault>{VAULT_NAME})/(?P<key>{VARIABLE_NAME})")
_RESERVED = frozenset(
    {
        *("PATH", "HOME", "VIRTUAL_ENV"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "BASH_ENV", "GCONV_PATH", "GLIBC_TUNABLES"),
        *("LD_AUDIT", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "DYLD_LIBRARY_PATH"),
    }
)
"""Variables that the worker sets, and variables that make a program run other code."""
_RESERVED_PREFIX = "RUNQY_"


class EntryUsage(StrEnum):
    ENVIRONMENT = "environment"  # a variable of the processes that run tasks
    GIT_TOKEN = "git_token"  # noqa: S105 (sent to git servers, never to tasks)
    BOTH = "both"

    @property
    def is_variable(self) -> bool:
        return self is not EntryUsage.GIT_TOKEN

    @property
    def is_git_token(self) -> bool:
        return self is not EntryUsage.ENVIRONMENT


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to an entry of a vault."""

    vault: str
    key: str

    def __str__(self) -> str:
        return f"vault://{self.vault}/{self.key}"


def vault_name_error(name: str) -> str | None:
    if _VAULT.fullmatch(name):
        return None
    return VAULT_NAME_RULE


def description_error(text: str) -> str | None:
    return "Null characters are not allowed." if "\0" in text else None


def variable_name_error(name: str) -> str | None:
    """Return the error of the name of an entry or environment variable; None if it is valid."""
    if not _VARIABLE.fullmatch(name):
        return VARIABLE_NAME_RULE
    if name in _RESERVED or name.startswith(_RESERVED_PREFIX):
        return f"{name} is reserved for the worker."
    return None


def value_error(value: str) -> str | None:
    """Return the error of the value of an entry or environment variable; None if it is valid. It never contains the
    value.
    """
    if not value:
        return "The value may not be empty."
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "The value must be valid Unicode."
    if size > VALUE_MAX_BYTES:
        return "The value may have at most 64 KiB."
    if "\0" in value:
        return "Null characters are not allowed in the value."
    return None


def normalize_git_hosts(hosts: Iterable[str]) -> list[str]:
    """Return hosts in their normal form, sorted, each once. Raise ValueError."""
    normalized = {host: normalize_host(host) for host in hosts}
    if wrong := [host for host, spelled in normalized.items() if spelled is None]:
        raise ValueError(f"{wrong[0][:80]!r}: {HOST_RULE}.")
    if len(normalized) > GIT_HOSTS_MAX:
        raise ValueError(f"An entry has at most {GIT_HOSTS_MAX} hosts.")
    return sorted({spelled for spelled in normalized.values() if spelled})


def git_token_error(reference: Reference, *, usage: EntryUsage, git_hosts: Iterable[str], git_url: str) -> str | None:
    """Return why an entry must not be sent to the host of a repository; None if it may. Only https sends a token."""
    if not is_https(git_url):
        return None
    host = find_https_host(git_url)
    if host is None:
        return f"The host in {git_url[:200]} is ambiguous, so no git token is sent to it. {HOST_RULE}."
    if usage.is_git_token and host in git_hosts:
        return None
    hosts = f"only for {', '.join(git_hosts)}" if usage.is_git_token else "not declared as a git token"
    return (
        f"The entry {reference} is {hosts}, and may not be sent to {host}: add {host} to its git hosts, "
        "with the permission to change the vault, or change git_token."
    )


def parse_reference(text: str) -> Reference | None:
    """Return the entry that `vault://<vault>/<key>` names; None for any other text."""
    match = _REFERENCE.fullmatch(text)
    return Reference(match["vault"], match["key"]) if match else None


def entry_error(key: str, value: str) -> str | None:
    """Return the error of a key and its value; None if both are valid. It never contains the value."""
    if message := variable_name_error(key):
        return f"{key[:80]!r}: {message}"
    if message := value_error(value):
        return f"{key}: {message}"
    return None

"""Finds the rows of vaults, and says what cannot become one."""

from collections.abc import Mapping, Sequence

from runqy.errors import VaultInvalid, VaultNotFound, VaultUnavailable
from vaults.crypto import Keyring
from vaults.models import Vault, VaultEntry
from vaults.names import (
    EntryUsage,
    normalize_git_hosts,
    problem_of_description,
    problem_of_usage,
    problem_of_value,
    problem_of_variable,
    problem_of_vault_name,
)


def find_vault(name: str) -> Vault:
    """Return a vault's row. Raises VaultNotFound."""
    vault = None if problem_of_vault_name(name) else Vault.objects.filter(name=name).first()
    if vault is None:
        raise VaultNotFound(f"No vault {name[:80]!r}.")
    return vault


def check_vault(name: str, description: str) -> None:
    """Raise VaultInvalid for what cannot be a vault."""
    if problem := problem_of_vault_name(name):
        raise VaultInvalid(f"{name[:80]!r}: {problem}.")
    if problem := problem_of_description(description):
        raise VaultInvalid(f"{problem[:1].upper()}{problem[1:]}.")


def check_entry(key: str, value: str) -> None:
    """Raise VaultInvalid for what cannot be an entry."""
    if problem := problem_of_entry(key, value):
        raise VaultInvalid(problem)


def resolve_declaration(
    key: str, entry: VaultEntry | None, usage: EntryUsage | None, git_hosts: Sequence[str] | None
) -> tuple[EntryUsage, list[str]]:
    """Return what an entry is used for and its hosts; None stays as it is, hosts only while it is a git token.

    Hosts alone make a new entry a git token, and let a variable be one too. Raises VaultInvalid.
    """
    usage = usage or _usage_with_hosts(entry, has_hosts=bool(git_hosts))
    if git_hosts is None:
        git_hosts = entry.git_hosts if entry and usage.is_git_token else []
    try:
        hosts = normalize_git_hosts(git_hosts)
    except ValueError as error:
        raise VaultInvalid(f"{key}: git_hosts: {error}.") from error
    if problem := problem_of_usage(usage, hosts):
        raise VaultInvalid(f"{key}: {problem}.")
    return usage, hosts


def _usage_with_hosts(entry: VaultEntry | None, *, has_hosts: bool) -> EntryUsage:
    """Return what an entry is used for where that is not stated."""
    if entry is None:
        return EntryUsage.GIT_TOKEN if has_hosts else EntryUsage.ENVIRONMENT
    usage = entry.get_usage()
    return EntryUsage.BOTH if has_hosts and not usage.is_git_token else usage


def check_entries(values: Mapping[str, str]) -> None:
    """Raise VaultInvalid with everything that is wrong about entries."""
    if problems := [problem for key, value in values.items() if (problem := problem_of_entry(key, value))]:
        raise VaultInvalid(errors=problems)


def problem_of_entry(key: str, value: str) -> str | None:
    """Return what is wrong with an entry as a sentence, or None; never shows the value."""
    if problem := problem_of_variable(key):
        return f"{key[:80]!r}: {problem}."
    if problem := problem_of_value(value):
        return f"{key}: {problem}."
    return None


def holds(keyring: Keyring, vault: str, entry: VaultEntry, value: str) -> bool:
    """Tell whether an entry is this value already."""
    try:
        return keyring.open(entry.place(vault), bytes(entry.ciphertext)) == value
    except VaultUnavailable:
        return False

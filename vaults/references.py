"""Lists and checks what queues may refer to: vaults by name, and their entries. Opens none, so needs no key."""

from dataclasses import dataclass

from vaults.models import Vault, VaultEntry
from vaults.names import EntryUsage, Reference, parse_reference, problem_of_git_token

__all__ = ["ReferencedEntry", "find_git_token_problem", "list_references"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedEntry:
    """An entry by its reference, and what it may be used for."""

    reference: Reference
    usage: EntryUsage
    git_hosts: tuple[str, ...]


def list_references() -> dict[str, list[ReferencedEntry]]:
    """Return all vaults by name, in order, each with its entries."""
    found: dict[str, list[ReferencedEntry]] = {}
    columns = ("name", "entries__key", "entries__usage", "entries__git_hosts")
    for vault, key, usage, hosts in Vault.objects.order_by("name", "entries__key").values_list(*columns):
        entries = found.setdefault(vault, [])
        if key:
            entries.append(
                ReferencedEntry(reference=Reference(vault, key), usage=EntryUsage(usage), git_hosts=tuple(hosts))
            )
    return found


def find_git_token_problem(*, git_token: str, git_url: str) -> str | None:
    """Return why the entry that a reference means may not be sent to the host of a repository, or None.

    A missing entry is no problem: workers are refused until it does, and is declared.
    """
    reference = parse_reference(git_token)
    if reference is None:
        return None
    entry = VaultEntry.objects.filter(vault__name=reference.vault, key=reference.key).first()
    if entry is None:
        return None
    return problem_of_git_token(reference, usage=entry.get_usage(), git_hosts=entry.git_hosts, git_url=git_url)

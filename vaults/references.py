"""The vaults and entries that queues can refer to. Nothing is decrypted, so no master key is needed."""

from dataclasses import dataclass

from vaults.entry_rules import EntryUsage, Reference, git_token_error, parse_reference
from vaults.models import Vault, VaultEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedEntry:
    """An entry by its reference, with its usage."""

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


def find_git_token_error(*, git_token: str, git_url: str) -> str | None:
    """Return why the entry of a reference must not be sent to the host of a repository; None if it may.

    The entry may be missing: workers are refused until it exists and is declared.
    """
    reference = parse_reference(git_token)
    if reference is None:
        return None
    entry = VaultEntry.objects.filter(vault__name=reference.vault, key=reference.key).first()
    if entry is None:
        return None
    return git_token_error(reference, usage=entry.get_usage(), git_hosts=entry.git_hosts, git_url=git_url)

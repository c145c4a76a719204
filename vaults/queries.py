"""Queries of vaults and their entries from the database, with masked values, and of what queues can refer to."""

from collections import defaultdict
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count

from runqy.configuration.documents import DocumentKind, field
from runqy.configuration.models import StoredDocument
from runqy.errors import VaultEntryNotFound, VaultLocked, VaultUnavailable
from vaults.crypto import fingerprint, get_keyring
from vaults.entry_rules import EntryUsage, Reference, git_token_error, parse_reference, variable_name_error
from vaults.models import KEY_ID, EntryVersion, Vault, VaultEntry

_NAMED_MAX = 3
"""The number of vaults that an error names at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryValue:
    """The masked value of an entry, or the reason why it cannot be decrypted."""

    value: str = ""
    """Masked if it is a secret."""
    fingerprint: str = ""
    """The same for equal values in all vaults."""
    error: str = ""
    """Why it cannot be decrypted; empty if it can."""


def is_unlocked() -> bool:
    try:
        get_keyring()
    except VaultLocked:
        return False
    return True


def find_key_error() -> str:
    """Return an error that names the master keys of stored entries that the server lacks; empty if it has all. One
    query.
    """
    known = get_keyring().ids if is_unlocked() else ()
    entries = VaultEntry.objects.annotate(key_id=KEY_ID).exclude(key_id__in=known).order_by("vault__name")
    vaults: defaultdict[str, list[str]] = defaultdict(list)
    for key_id, vault in entries.values_list("key_id", "vault__name").distinct():
        vaults[bytes(key_id).hex()].append(vault)
    if not vaults:
        return ""
    keys = " and ".join(f"the master key {key_id} ({_name_vaults(names)})" for key_id, names in sorted(vaults.items()))
    return (
        f"Vault entries cannot be decrypted: they were encrypted with {keys}. "
        "Add it to RUNQY_VAULT_MASTER_KEY; if it is lost, delete these entries. No value can be set until then."
    )


def _name_vaults(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return f"vault{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED_MAX])}{more}"


def list_vaults() -> list[Vault]:
    """Return all vaults in order of their names, each with its `entry_count`. Raise VaultLocked."""
    get_keyring()  # raises VaultLocked
    return list(Vault.objects.annotate(entry_count=Count("entries")).order_by("name"))


def get_entry_value(entry: VaultEntry) -> EntryValue:
    """Return the masked value of an entry. Select its vault with it, or it costs another query."""
    try:
        return EntryValue(value=entry.displayed_value, fingerprint=fingerprint(entry.decrypt(), settings.SECRET_KEY))
    except (VaultLocked, VaultUnavailable) as error:
        return EntryValue(error=error.detail)


def list_decrypt_errors(vault: Vault) -> list[str]:
    """Return the decrypt errors of the entries of a vault. One query."""
    return [error for entry in vault.entries.all() if (error := get_entry_value(entry).error)]


def list_queues_by_vault() -> dict[str, list[str]]:
    """Return the queues that use each vault, by its name. The vault may be missing. One query."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    queues = StoredDocument.objects.filter(kind=DocumentKind.QUEUE, body__isnull=False).order_by("name")
    prefix = field(DocumentKind.VAULT, "")
    for queue, uses in queues.values_list("name", "uses"):
        for use in dict.fromkeys(uses):
            if use.startswith(prefix):
                found[use.removeprefix(prefix)].append(queue)
    return dict(found)


def list_versions(vault: str, key: str, *, before: int | None = None, limit: int = 30) -> list[EntryVersion]:
    """Return the versions of an entry, newest first, also of one that was deleted. `before` is the id of the last row
    seen.

    Raise VaultNotFound, VaultEntryNotFound, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    Vault.objects.get_named(vault)
    versions = EntryVersion.objects.filter(vault=vault, key=key)
    if variable_name_error(key) or not versions.exists():
        raise VaultEntryNotFound(f"The vault {vault} never had an entry {key[:80]!r}.")
    if before is not None:
        versions = versions.filter(pk__lt=before)
    return list(versions.order_by("-pk")[:limit])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencedEntry:
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

"""Queries of vaults and their entries from the database, with masked values."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.conf import settings
from django.db.models import Count

from runqy.config_sync.documents import DocumentKind, field
from runqy.config_sync.models import StoredDocument
from runqy.errors import VaultEntryNotFound, VaultLocked, VaultNotFound, VaultUnavailable
from vaults.crypto import Keyring, fingerprint, get_keyring
from vaults.entry_rules import EntryUsage, entry_error, variable_name_error, vault_name_error
from vaults.masking import displayed_value
from vaults.models import KEY_ID, EntryVersion, Vault, VaultEntry

_NAMED_MAX = 3
"""The number of vaults that an error names at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDisplay:
    """An entry with its masked value."""

    key: str
    value: str
    """Masked if it is a secret."""
    is_secret: bool
    version: int
    """1, 2, 3 …: the number of the value."""
    updated_by: str
    fingerprint: str
    """The same for equal values in all vaults."""
    created_at: datetime
    updated_at: datetime
    usage: EntryUsage
    git_hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryValue:
    """The masked value of an entry, or the reason why it cannot be decrypted."""

    value: str = ""
    """Masked if it is a secret."""
    is_secret: bool = True
    fingerprint: str = ""
    error: str = ""
    """Why it cannot be decrypted; empty if it can."""


class PreviewOutcome(StrEnum):
    """The effect of setting a value."""

    ADDED = "added"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPreview:
    """The effect of setting a value on an entry, without the value."""

    key: str
    outcome: PreviewOutcome
    error: str = ""
    """Why the value is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSummary:
    name: str
    description: str
    entries: tuple[EntryDisplay, ...]
    created_at: datetime
    updated_at: datetime
    etag: str
    """Changes with the vault and its entries."""


def is_unlocked() -> bool:
    try:
        get_keyring()
    except VaultLocked:
        return False
    return True


def require_key() -> None:
    get_keyring()  # raises VaultLocked


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


def get_vault_summary(name: str) -> VaultSummary:
    """Return a vault with its entries, secrets masked. Raise VaultNotFound, VaultUnavailable, VaultLocked."""
    get_keyring()  # raises VaultLocked
    vault = get_vault_row(name)
    return VaultSummary(
        name=vault.name,
        description=vault.description,
        entries=tuple(_display(vault, entry) for entry in vault.entries.all()),
        created_at=vault.created_at,
        updated_at=vault.updated_at,
        etag=vault.etag,
    )


def get_entry_value(entry: VaultEntry) -> EntryValue:
    """Return the masked value of an entry. Select its vault with it, or it costs another query."""
    try:
        value = get_keyring().decrypt(entry.aad(entry.vault.name), bytes(entry.ciphertext))
    except (VaultLocked, VaultUnavailable) as error:
        return EntryValue(is_secret=entry.is_secret, error=error.detail)
    return EntryValue(
        value=displayed_value(value, is_secret=entry.is_secret),
        is_secret=entry.is_secret,
        fingerprint=fingerprint(value, settings.SECRET_KEY),
    )


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
    get_vault_row(vault)
    versions = EntryVersion.objects.filter(vault=vault, key=key)
    if variable_name_error(key) or not versions.exists():
        raise VaultEntryNotFound(f"The vault {vault} never had an entry {key[:80]!r}.")
    if before is not None:
        versions = versions.filter(pk__lt=before)
    return list(versions.order_by("-pk")[:limit])


def preview_entries(vault: str, values: Mapping[str, str]) -> list[EntryPreview]:
    """Return the effect of setting each value, in order. Raise VaultNotFound, VaultLocked."""
    keyring = get_keyring()
    row = get_vault_row(vault)
    entries = {entry.key: entry for entry in row.entries.all()}

    def preview(key: str, value: str) -> EntryPreview:
        entry = entries.get(key)
        if error := entry_error(key, value):
            return EntryPreview(key=key, outcome=PreviewOutcome.REFUSED, error=error)
        if entry is None:
            return EntryPreview(key=key, outcome=PreviewOutcome.ADDED)
        is_same = is_entry_value(keyring, vault, entry, value)
        return EntryPreview(key=key, outcome=PreviewOutcome.UNCHANGED if is_same else PreviewOutcome.CHANGED)

    return [preview(key, value) for key, value in values.items()]


def get_vault_row(name: str) -> Vault:
    """Return a vault. Raise VaultNotFound."""
    vault = find_vault_row(name)
    if vault is None:
        raise VaultNotFound(f"No vault {name[:80]!r}.")
    return vault


def find_vault_row(name: str) -> Vault | None:
    """Return a vault; None if it does not exist."""
    # PostgreSQL refuses a query with NUL in it.
    return None if vault_name_error(name) else Vault.objects.filter(name=name).first()


def is_entry_value(keyring: Keyring, vault: str, entry: VaultEntry, value: str) -> bool:
    """Return whether an entry has this value. False if it cannot be decrypted."""
    try:
        return keyring.decrypt(entry.aad(vault), bytes(entry.ciphertext)) == value
    except VaultUnavailable:
        return False


def _display(vault: Vault, entry: VaultEntry) -> EntryDisplay:
    value = get_keyring().decrypt(entry.aad(vault.name), bytes(entry.ciphertext))
    return EntryDisplay(
        key=entry.key,
        value=displayed_value(value, is_secret=entry.is_secret),
        is_secret=entry.is_secret,
        version=entry.version,
        updated_by=entry.updated_by,
        fingerprint=fingerprint(value, settings.SECRET_KEY),
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        usage=entry.get_usage(),
        git_hosts=tuple(entry.git_hosts),
    )

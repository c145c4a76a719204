"""Reads vaults: for workers from the published configuration, for people, masked, from the database."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count

from runqy.errors import VaultLocked, VaultNotFound, VaultUnavailable
from runqy.publication.documents import Kind
from runqy.publication.snapshot import get_snapshot
from vaults.crypto import Place
from vaults.keyring import get_keyring
from vaults.models import Vault, VaultEntry
from vaults.names import masked, parse_reference, problem_of_vault_name
from vaults.published import PublishedVault, decode_vault

__all__ = [
    "EntryView",
    "VaultView",
    "get_vault",
    "is_unlocked",
    "list_vaults",
    "open_reference",
    "open_vaults",
    "require_key",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """An entry as people may see it."""

    key: str
    value: str
    """Masked where it is a secret."""
    is_secret: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultView:
    """A vault with its entries as people may see them."""

    name: str
    description: str
    entries: tuple[EntryView, ...]
    created_at: datetime
    updated_at: datetime
    etag: str
    """Changes with everything about the vault."""


def open_vaults(names: Iterable[str], *, max_age_s: float = 1.0) -> dict[str, str]:
    """Return all values of some vaults, in order: a later vault overrides an earlier one.

    Raises VaultLocked, or VaultUnavailable with the name of what is missing or cannot be opened: never a part.
    """
    values: dict[str, str] = {}
    for name in names:
        vault = _published_vault(name, max_age_s)
        for entry in vault.entries:
            values[entry.key] = get_keyring().open(Place(name, entry.key, entry.version), entry.ciphertext)
    return values


def open_reference(reference: str, *, max_age_s: float = 1.0) -> str:
    """Return the value that `vault://<vault>/<key>` means. Raises VaultLocked, VaultUnavailable."""
    place = parse_reference(reference)
    if place is None:
        raise VaultUnavailable("A reference is spelled vault://<vault>/<key>.")
    for entry in _published_vault(place.vault, max_age_s).entries:
        if entry.key == place.key:
            return get_keyring().open(Place(place.vault, entry.key, entry.version), entry.ciphertext)
    raise VaultUnavailable(f"The vault {place.vault} has no entry {place.key}.")


def is_unlocked() -> bool:
    """Tell whether there is a master key."""
    try:
        get_keyring()
    except VaultLocked:
        return False
    return True


def require_key() -> None:
    """Raise VaultLocked when there is no master key."""
    get_keyring()


def list_vaults() -> list[Vault]:
    """Return all vaults in order of their names, each with its `entry_count`. Raises VaultLocked."""
    get_keyring()
    return list(Vault.objects.annotate(entry_count=Count("entries")).order_by("name"))


def get_vault(name: str) -> VaultView:
    """Return a vault with its entries, secrets masked. Raises VaultNotFound, VaultUnavailable, VaultLocked."""
    get_keyring()
    vault = None if problem_of_vault_name(name) else Vault.objects.prefetch_related("entries").filter(name=name).first()
    if vault is None:
        raise VaultNotFound(f"No vault {name[:80]!r}.")
    return VaultView(
        name=vault.name,
        description=vault.description,
        entries=tuple(_view(vault, entry) for entry in vault.entries.all()),
        created_at=vault.created_at,
        updated_at=vault.updated_at,
        etag=vault.etag,
    )


def _view(vault: Vault, entry: VaultEntry) -> EntryView:
    """Return an entry as people may see it."""
    value = get_keyring().open(entry.place(vault.name), bytes(entry.ciphertext))
    return EntryView(
        key=entry.key,
        value=masked(value) if entry.is_secret else value,
        is_secret=entry.is_secret,
        created_at=entry.created_at,
        updated_at=entry.updated_at,
    )


def _published_vault(name: str, max_age_s: float) -> PublishedVault:
    """Return what is published about a vault. Raises VaultLocked, VaultUnavailable."""
    get_keyring()
    document = get_snapshot(max_age_s).find(Kind.VAULT, name)
    if document is None or document.body is None:
        raise VaultUnavailable(f"The vault {name} does not exist.")
    return decode_vault(document.body)

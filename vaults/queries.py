"""Reads vaults for people, masked, from the database."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count

from runqy.errors import VaultLocked, VaultNotFound
from vaults.keyring import get_keyring
from vaults.models import Vault, VaultEntry
from vaults.names import masked, problem_of_vault_name

__all__ = ["EntryView", "VaultView", "get_vault", "is_unlocked", "list_vaults", "require_key"]


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

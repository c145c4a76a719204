"""Changes vaults and their entries, and publishes them. All of it needs the master key."""

from collections.abc import Callable

from runqy.audit.changes import CHANGED, Changes, differences
from runqy.audit.operations import record
from runqy.errors import (
    VaultAlreadyExists,
    VaultEntryNotFound,
    VaultInvalid,
    VaultNotFound,
    VaultUnavailable,
)
from runqy.publication.documents import Kind
from runqy.publication.operations import Change, configuration_change
from vaults.crypto import Keyring, Place
from vaults.keyring import get_keyring
from vaults.models import Vault, VaultEntry
from vaults.names import problem_of_description, problem_of_value, problem_of_variable, problem_of_vault_name
from vaults.published import encode_vault

__all__ = ["create_vault", "delete_entry", "delete_vault", "describe_vault", "set_entry"]

Check = Callable[[str], None]
"""Takes the version of the vault that is to be changed; raises when another was meant."""


def _any(version: str) -> None:
    """Accept every version."""


def create_vault(*, name: str, description: str = "") -> Vault:
    """Create an empty vault. Raises VaultInvalid, VaultAlreadyExists, VaultLocked."""
    get_keyring()
    if problem := problem_of_vault_name(name):
        raise VaultInvalid(f"{name[:80]!r}: {problem}.")
    if problem := problem_of_description(description):
        raise VaultInvalid(f"{problem[:1].upper()}{problem[1:]}.")
    with configuration_change() as change:
        vault, is_new = Vault.objects.get_or_create(name=name, defaults={"description": description})
        if not is_new:
            raise VaultAlreadyExists(f"A vault {name} exists already.")
        _put(change, vault)
        _record("vault.created", name, {"description": (None, description)})
    return vault


def describe_vault(*, name: str, description: str) -> Vault:
    """Change what people read about a vault; workers are not concerned. Raises VaultNotFound, VaultLocked."""
    get_keyring()
    with configuration_change():
        vault = _get_vault(name)
        changes = differences({"description": vault.description}, {"description": description})
        vault.description = description
        vault.save()
        if changes:
            _record("vault.updated", name, changes)
    return vault


def delete_vault(*, name: str, check: Check = _any) -> None:
    """Delete a vault and all its entries. Raises VaultNotFound, VaultLocked."""
    get_keyring()
    with configuration_change() as change:
        vault = _get_vault(name)
        check(vault.etag)
        keys = list(vault.entries.values_list("key", flat=True))
        vault.delete()
        change.remove(Kind.VAULT, name)
        _record("vault.deleted", name, {"description": (vault.description, None), "entries": (keys, None)})


def set_entry(*, vault: str, key: str, value: str, is_secret: bool = True, check: Check = _any) -> VaultEntry:
    """Set a value; setting the same value again changes nothing.

    Raises VaultInvalid, VaultNotFound, VaultLocked.
    """
    keyring = get_keyring()
    if problem := problem_of_variable(key):
        raise VaultInvalid(f"{key[:80]!r}: {problem}.")
    if problem := problem_of_value(value):
        raise VaultInvalid(f"{key}: {problem}.")
    with configuration_change() as change:
        row = _get_vault(vault)
        check(row.etag)
        entry = row.entries.filter(key=key).first() or VaultEntry(vault=row, key=key)
        changes = dict(differences({"is_secret": entry.is_secret if entry.pk else None}, {"is_secret": is_secret}))
        if entry.pk is None or not _holds(keyring, vault, entry, value):
            entry.version = change.revision
            entry.ciphertext = keyring.seal(Place(vault, key, entry.version), value)
            changes["value"] = CHANGED
        entry.is_secret = is_secret
        entry.save()
        row.save()
        _put(change, row)
        if changes:
            _record("vault_entry.set", f"{vault}/{key}", changes)
    return entry


def delete_entry(*, vault: str, key: str, check: Check = _any) -> None:
    """Delete a value. Raises VaultNotFound, VaultEntryNotFound, VaultLocked."""
    get_keyring()
    with configuration_change() as change:
        row = _get_vault(vault)
        check(row.etag)
        if problem_of_variable(key) or not row.entries.filter(key=key).delete()[0]:
            raise VaultEntryNotFound(f"The vault {vault} has no entry {key[:80]!r}.")
        row.save()
        _put(change, row)
        _record("vault_entry.deleted", f"{vault}/{key}", {"value": CHANGED})


def _get_vault(name: str) -> Vault:
    """Return a vault's row. Raises VaultNotFound."""
    vault = None if problem_of_vault_name(name) else Vault.objects.filter(name=name).first()
    if vault is None:
        raise VaultNotFound(f"No vault {name[:80]!r}.")
    return vault


def _holds(keyring: Keyring, vault: str, entry: VaultEntry, value: str) -> bool:
    """Tell whether an entry is this value already, readable and encrypted with the current key."""
    stored = bytes(entry.ciphertext)
    try:
        return keyring.is_current(stored) and keyring.open(entry.place(vault), stored) == value
    except VaultUnavailable:
        return False


def _record(action: str, name: str, changes: Changes) -> None:
    """Record a change of what the action begins with."""
    record(action=action, object_kind=action.partition(".")[0], object_name=name, changes=changes)


def _put(change: Change, vault: Vault) -> None:
    """Store what is to be published about a vault."""
    change.put(Kind.VAULT, vault.name, encode_vault(vault.entries.all()))

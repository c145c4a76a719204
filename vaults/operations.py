"""Changes vaults and their entries, and publishes them. All of it needs the master key."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runqy.audit.changes import CHANGED, Changes, differences
from runqy.audit.operations import record
from runqy.errors import VaultAlreadyExists, VaultEntryChanged, VaultEntryNotFound
from runqy.publication.documents import Kind
from runqy.publication.operations import configuration_change
from vaults.entries import EntryWriter, NewEntry, put_vault
from vaults.keyring import get_keyring
from vaults.models import Vault, VaultEntry
from vaults.names import EntryUsage
from vaults.queries import EntryPreview, Outcome, preview_entries
from vaults.rows import check_entries, check_entry, check_vault, find_vault

__all__ = [
    "ALWAYS",
    "Condition",
    "create_vault",
    "delete_entry",
    "delete_vault",
    "describe_vault",
    "narrow_entry",
    "set_entries",
    "set_entry",
]

Check = Callable[[str], None]
"""Takes the ETag of the vault that is to be changed; raises when another was meant."""


def _any(etag: str) -> None:
    """Accept every vault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What has to be so for an entry to be changed."""

    check: Check = _any
    expected_version: int | None = None
    """Of the entry; 0: it must not exist; None: whichever."""


ALWAYS: Final = Condition()


def create_vault(*, name: str, description: str = "") -> Vault:
    """Create an empty vault. Raises VaultInvalid, VaultAlreadyExists, VaultLocked."""
    get_keyring()
    check_vault(name, description)
    with configuration_change() as change:
        vault, is_new = Vault.objects.get_or_create(name=name, defaults={"description": description})
        if not is_new:
            raise VaultAlreadyExists(f"A vault {name} exists already.")
        put_vault(change, vault)
        record_change("vault.created", name, {"description": (None, description)})
    return vault


def describe_vault(*, name: str, description: str) -> Vault:
    """Change what people read about a vault; workers are not concerned.

    Raises VaultInvalid, VaultNotFound, VaultLocked.
    """
    get_keyring()
    check_vault(name, description)
    with configuration_change():
        vault = find_vault(name)
        changes = differences({"description": vault.description}, {"description": description})
        if changes:
            vault.description = description
            vault.save()
            record_change("vault.updated", name, changes)
    return vault


def delete_vault(*, name: str, check: Check = _any) -> None:
    """Delete a vault and all its entries. Raises VaultNotFound, VaultLocked."""
    get_keyring()
    with configuration_change() as change:
        vault = find_vault(name)
        check(vault.etag)
        keys = EntryWriter(change, vault).clear()
        vault.delete()
        change.remove(Kind.VAULT, name)
        record_change("vault.deleted", name, {"description": (vault.description, None), "entries": (keys, None)})


def set_entry(  # noqa: PLR0913 (each is a property of an entry)
    *,
    vault: str,
    key: str,
    value: str,
    is_secret: bool = True,
    usage: EntryUsage | None = None,
    git_hosts: Sequence[str] | None = None,
    only_if: Condition = ALWAYS,
) -> VaultEntry:
    """Set a value; setting the same value again changes nothing. `usage` and `git_hosts` None stay as they are.

    Raises VaultInvalid, VaultNotFound, VaultEntryChanged, VaultLocked.
    """
    get_keyring()
    check_entry(key, value)
    with configuration_change() as change:
        row = find_vault(vault)
        writer = EntryWriter(change, row)
        _require(only_if, row, writer.find(key), key)
        changes = writer.set(
            NewEntry(key=key, value=value, is_secret=is_secret, usage=usage, git_hosts=git_hosts),
        )
        writer.publish()
        if changes:
            record_change("vault_entry.set", f"{vault}/{key}", changes)
        return row.entries.get(key=key)


def narrow_entry(
    *, vault: str, key: str, usage: EntryUsage, git_hosts: Sequence[str], only_if: Condition = ALWAYS
) -> None:
    """Let an entry be used for less than before, without its value.

    Raises VaultInvalid where that is more, VaultNotFound, VaultEntryNotFound, VaultEntryChanged, VaultLocked.
    """
    get_keyring()
    with configuration_change() as change:
        row = find_vault(vault)
        writer = EntryWriter(change, row)
        entry = writer.find(key)
        _require(only_if, row, entry, key)
        if entry is None:
            raise VaultEntryNotFound(f"The vault {vault} has no entry {key[:80]!r}.")
        changes = writer.narrow(entry, usage, git_hosts)
        writer.publish()
        if changes:
            record_change("vault_entry.set", f"{vault}/{key}", changes)


def set_entries(
    *, vault: str, values: Mapping[str, str], is_secret: bool | None = None, check: Check = _any
) -> list[str]:
    """Set many values at once, all or none, and return the keys of those that changed.

    `is_secret` None keeps the mask of what there is; what is new is a secret. Other entries stay.
    Raises VaultInvalid, which names everything that is wrong, VaultNotFound, VaultLocked.
    """
    get_keyring()
    check_entries(values)
    with configuration_change() as change:
        row = find_vault(vault)
        check(row.etag)
        writer = EntryWriter(change, row)
        changed = {
            key: changes
            for key, value in values.items()
            if (changes := writer.set(NewEntry(key=key, value=value, is_secret=is_secret)))
        }
        writer.publish()
        for key, changes in changed.items():
            record_change("vault_entry.set", f"{vault}/{key}", changes)
    return list(changed)


def delete_entry(*, vault: str, key: str, only_if: Condition = ALWAYS) -> None:
    """Delete a value. Raises VaultNotFound, VaultEntryNotFound, VaultEntryChanged, VaultLocked."""
    get_keyring()
    with configuration_change() as change:
        row = find_vault(vault)
        writer = EntryWriter(change, row)
        entry = writer.find(key)
        _require(only_if, row, entry, key)
        if entry is None:
            raise VaultEntryNotFound(f"The vault {vault} has no entry {key[:80]!r}.")
        writer.delete(entry)
        writer.publish()
        record_change("vault_entry.deleted", f"{vault}/{key}", {"value": CHANGED})


def compare_entries(vault: str, values: Mapping[str, str]) -> list[EntryPreview]:
    """Return what setting these values would do to each, in order, without a value. Raises VaultNotFound, VaultLocked.

    It is recorded: the outcome reveals whether a guess at a secret is right.
    """
    found = preview_entries(vault, values)
    record_comparison(vault, found)
    return found


def record_comparison(vault: str, found: Iterable[EntryPreview]) -> None:
    """Record which values of a vault were compared with others."""
    if compared := [entry.key for entry in found if entry.outcome in (Outcome.CHANGED, Outcome.UNCHANGED)]:
        record_change("vault.compared", vault, {"entries": (None, compared)})


def record_change(action: str, name: str, changes: Changes) -> None:
    """Record a change of what the action begins with."""
    record(action=action, object_kind=action.partition(".")[0], object_name=name, changes=changes)


def _require(only_if: Condition, vault: Vault, entry: VaultEntry | None, key: str) -> None:
    """Raise what a condition raises when it is not met."""
    only_if.check(vault.etag)
    present = entry.version if entry else 0
    if only_if.expected_version not in (None, present):
        raise VaultEntryChanged(f"{vault.name}/{key[:80]}", expected=only_if.expected_version or 0, present=present)

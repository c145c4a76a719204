"""Create, change and delete vaults and their entries, and publish them. All operations need the master key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from runqy.audit.actors import current_actor
from runqy.audit.changes import REDACTED, Change, Changes
from runqy.audit.operations import record
from runqy.config_sync.documents import DocumentKind
from runqy.config_sync.operations import Change as ConfigurationChange
from runqy.config_sync.operations import configuration_change
from runqy.database.model_errors import model_errors
from runqy.errors import VaultAlreadyExists, VaultEntryChanged, VaultEntryNotFound, VaultInvalid, VaultUnavailable
from runqy.http.preconditions import Precondition, accept_any
from vaults.crypto import get_keyring
from vaults.dotenv import format_line
from vaults.entry_rules import EntryUsage, check_entries, entry_error, normalize_git_hosts
from vaults.models import EntryVersion, Event, Vault, VaultEntry
from vaults.queries import (
    EntryPreview,
    PreviewOutcome,
    find_key_error,
    find_vault_row,
    get_vault_row,
    is_entry_value,
    list_queues_by_vault,
    preview_entries,
)
from vaults.vault_documents import encode_vault

NAME_MAX_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryInput:
    """An entry to set."""

    key: str
    value: str = field(repr=False)
    is_secret: bool | None = True
    """None: unchanged. A new entry is secret."""
    usage: EntryUsage | None = None
    """None: unchanged. A new entry is a variable."""
    git_hosts: Sequence[str] | None = None
    """None: unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryEdit:
    """A change of one entry in a form."""

    key: str
    expected_version: int | None = None
    """The version that the form showed; 0 for a new entry."""
    value: str | None = field(default=None, repr=False)
    """None keeps the value."""
    is_secret: bool = True
    usage: EntryUsage = EntryUsage.ENVIRONMENT
    git_hosts: Sequence[str] = ()
    is_deleted: bool = False


class EntryWriter:
    """Writes the entries of one vault within one open change."""

    def __init__(self, change: ConfigurationChange, vault: Vault, *, is_new: bool = False) -> None:
        """`change` holds the lock of all changes. `vault` was read under it."""
        self._change, self._vault = change, vault
        self._keyring = get_keyring()
        self._entries = {entry.key: entry for entry in vault.entries.all()}
        self._noted: list[EntryVersion] = []
        self._at = timezone.now()
        self._notifies_workers = is_new
        self._is_changed = False
        self._has_all_keys = False

    def set(self, new: EntryInput, *, event: Event = Event.SET) -> Changes:
        """Set an entry; return what changed. Raise VaultInvalid."""
        if message := entry_error(new.key, new.value):
            raise VaultInvalid(message)
        entry = self.find(new.key)
        changes: dict[str, Change] = {}
        is_secret = new.is_secret
        if is_secret is None:
            is_secret = True if entry is None else entry.is_secret
        if entry is None or entry.is_secret != is_secret:
            changes["is_secret"] = (None if entry is None else entry.is_secret, is_secret)
        usage, git_hosts = resolve_declaration(new.key, entry, new.usage, new.git_hosts)
        # Compared first: once usage or hosts are changed, the ciphertext cannot be decrypted with them.
        is_same = entry is not None and is_entry_value(self._keyring, self._vault.name, entry, new.value)
        entry = entry or VaultEntry(vault=self._vault, key=new.key)
        entry.is_secret = is_secret
        changes |= self._declare(entry, usage, git_hosts)
        if not is_same:
            self._encrypt(entry, new.value, event)
            changes["value"] = REDACTED
        elif changes:
            self._seal(entry, new.value)
        elif not self._keyring.is_current(bytes(entry.ciphertext)):
            # The same value under an older master key: it is encrypted with the first one on this occasion.
            self.reencrypt(entry, new.value)
        if changes:
            self._save(entry)
        return changes

    def restrict(self, entry: VaultEntry, usage: EntryUsage, git_hosts: Sequence[str]) -> Changes:
        """Restrict the usage of an entry without knowing its value; return what changed.

        Raise VaultInvalid if it would be extended, and VaultUnavailable if the value cannot be encrypted for the new
        usage.
        """
        wanted, hosts = resolve_declaration(entry.key, entry, usage, git_hosts)
        if not is_restriction(entry, wanted, hosts):
            raise VaultInvalid(f"{entry.key}: Enter the value again to extend its usage or its git hosts.")
        before = entry.aad(self._vault.name)
        changes = self._declare(entry, wanted, hosts)
        if changes:
            self._seal(entry, self._keyring.decrypt(before, bytes(entry.ciphertext)))
            self._save(entry)
        return changes

    def reencrypt(self, entry: VaultEntry, value: str) -> None:
        """Encrypt a value with the first key. Workers have the value, so they are not notified."""
        self._seal(entry, value)
        entry.save(update_fields=["revision", "ciphertext", "sealed_at"])
        self._entries[entry.key] = entry
        self._note(entry.key, entry.version, Event.ROTATED)

    def delete(self, entry: VaultEntry) -> None:
        self._note(entry.key, entry.version + 1, Event.DELETED)
        del self._entries[entry.key]
        entry.delete()
        self._notifies_workers = self._is_changed = True

    def find(self, key: str) -> VaultEntry | None:
        return self._entries.get(key)

    def clear(self) -> list[str]:
        """Delete all entries, before their vault is deleted; return their keys."""
        keys = sorted(self._entries)
        for key in keys:
            self.delete(self._entries[key])
        EntryVersion.objects.bulk_create(self._noted)
        return keys

    def publish(self) -> None:
        """Store the versions and the document to publish, and the time of the change."""
        EntryVersion.objects.bulk_create(self._noted)
        if self._is_changed:
            self._vault.save()
        put_vault(self._change, self._vault, self._entries.values(), notify_workers=self._notifies_workers)

    def _declare(self, entry: VaultEntry, usage: EntryUsage, git_hosts: list[str]) -> dict[str, Change]:
        before = entry.pk is not None
        changes: dict[str, Change] = {}
        if entry.usage != usage:
            changes["usage"] = (entry.usage if before else None, usage.value)
        if entry.git_hosts != git_hosts:
            changes["git_hosts"] = (entry.git_hosts if before else None, git_hosts)
        entry.usage, entry.git_hosts = usage.value, git_hosts
        self._notifies_workers |= bool(changes)
        return changes

    def _save(self, entry: VaultEntry) -> None:
        entry.updated_by = current_actor().name[:NAME_MAX_LENGTH]
        # Without checking the vault, which is locked, and constraints: that would take seven queries for each entry.
        if errors := model_errors(entry, exclude=["vault"], prefix=entry.key[:80], validate_constraints=False):
            raise VaultInvalid(errors=errors)
        entry.save()
        self._entries[entry.key] = entry
        self._is_changed = True

    def _encrypt(self, entry: VaultEntry, value: str, event: Event) -> None:
        """Set a new value. Raise VaultUnavailable if the server lacks the key of any stored entry."""
        # The first key is probably wrong then, and the value would be lost with it.
        if not self._has_all_keys and (message := find_key_error()):
            raise VaultUnavailable(message)
        self._has_all_keys = True
        self._seal(entry, value)
        entry.version = entry.version + 1 if entry.pk else self._first_version(entry.key)
        self._notifies_workers = True
        self._note(entry.key, entry.version, event)

    def _seal(self, entry: VaultEntry, value: str) -> None:
        """Encrypt a value for an entry with its present usage and hosts."""
        entry.revision = self._change.revision
        entry.ciphertext = self._keyring.encrypt(entry.aad(self._vault.name), value)
        entry.sealed_at = self._at

    def _first_version(self, key: str) -> int:
        """Return the version of a new entry. It goes on after those of a deleted one with the same key."""
        past = EntryVersion.objects.filter(vault=self._vault.name, key=key).aggregate(last=Max("version"))
        return (past["last"] or 0) + 1

    def _note(self, key: str, version: int, event: Event) -> None:
        actor = current_actor()
        self._noted.append(
            EntryVersion(
                vault=self._vault.name,
                key=key,
                version=version,
                event=event,
                at=self._at,
                actor_kind=actor.kind,
                actor_id=actor.id[:NAME_MAX_LENGTH],
                actor_name=actor.name[:NAME_MAX_LENGTH],
            )
        )


def resolve_declaration(
    key: str, entry: VaultEntry | None, usage: EntryUsage | None, git_hosts: Sequence[str] | None
) -> tuple[EntryUsage, list[str]]:
    """Return the usage of an entry and its hosts. None keeps what it has, but hosts only while it is a git token.

    Hosts without a usage make a new entry a git token, and a variable a variable and a git token. Raise VaultInvalid.
    """
    usage = usage or _usage_with_hosts(entry, has_hosts=bool(git_hosts))
    if git_hosts is None:
        git_hosts = entry.git_hosts if entry and usage.is_git_token else []
    try:
        hosts = normalize_git_hosts(git_hosts)
    except ValueError as error:
        raise VaultInvalid(f"{key[:80]}: git_hosts: {error}") from error
    return usage, hosts


def _usage_with_hosts(entry: VaultEntry | None, *, has_hosts: bool) -> EntryUsage:
    if entry is None:
        return EntryUsage.GIT_TOKEN if has_hosts else EntryUsage.ENVIRONMENT
    usage = entry.get_usage()
    return EntryUsage.BOTH if has_hosts and not usage.is_git_token else usage


def is_restriction(entry: VaultEntry, usage: EntryUsage, git_hosts: Iterable[str]) -> bool:
    """Return whether a usage with these hosts allows no more than that of an entry."""
    known = entry.get_usage()
    is_wider = (usage.is_variable and not known.is_variable) or (usage.is_git_token and not known.is_git_token)
    return not is_wider and set(git_hosts) <= set(entry.git_hosts)


def put_vault(
    change: ConfigurationChange, vault: Vault, entries: Iterable[VaultEntry] = (), *, notify_workers: bool = True
) -> None:
    """Store the document to publish of a vault."""
    change.put(DocumentKind.VAULT, vault.name, encode_vault(entries), notify_workers=notify_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The preconditions of a change of an entry."""

    precondition: Precondition = accept_any
    """On the vault, by its ETag."""
    expected_version: int | None = None
    """The version that the entry must have. 0: it must not exist. None: any."""


ALWAYS: Final = Condition()


def create_vault(*, name: str, description: str = "") -> Vault:
    """Create an empty vault. Raise VaultInvalid, VaultAlreadyExists, VaultLocked."""
    return save_vault(name=name, description=description, is_new=True)


def save_vault(*, name: str, description: str, edits: Sequence[EntryEdit] = (), is_new: bool = False) -> Vault:
    """Create or change a vault, with all edits of its entries: one change, one publication, one audit record.

    Raise VaultInvalid, VaultAlreadyExists, VaultNotFound, VaultEntryNotFound, VaultEntryChanged, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    with configuration_change() as change:
        if is_new and find_vault_row(name):
            raise VaultAlreadyExists(f"A vault {name} already exists.")
        vault = Vault(name=name) if is_new else get_vault_row(name)
        before = None if is_new else vault.description
        changes: dict[str, Change] = {"description": (before, description)} if before != description else {}
        if is_new or changes:
            vault.description = description
            if errors := model_errors(vault):
                raise VaultInvalid(errors=errors)
            vault.save()
        writer = EntryWriter(change, vault, is_new=is_new)
        for edit in edits:
            changes |= {f"{edit.key}.{name}": values for name, values in _apply_edit(writer, vault, edit).items()}
        writer.publish()
        if changes or is_new:
            record_change("vault.created" if is_new else "vault.updated", name, changes)
    return vault


def _apply_edit(writer: EntryWriter, vault: Vault, edit: EntryEdit) -> Changes:
    entry = writer.find(edit.key)
    _require(Condition(expected_version=edit.expected_version), vault, entry, edit.key)
    if edit.value is not None and not edit.is_deleted:
        return writer.set(
            EntryInput(
                key=edit.key,
                value=edit.value,
                is_secret=edit.is_secret,
                usage=edit.usage,
                git_hosts=edit.git_hosts,
            )
        )
    if entry is None:
        raise VaultEntryNotFound(f"The vault {vault.name} has no entry {edit.key[:80]!r}.")
    if edit.is_deleted:
        writer.delete(entry)
        return {"value": REDACTED}
    return writer.restrict(entry, edit.usage, edit.git_hosts)


def delete_vault(*, name: str, precondition: Precondition = accept_any) -> list[str]:
    """Delete a vault and all its entries; return the names of the queues that use it.

    Workers cannot register for those until it exists again. Raise VaultNotFound, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    used_by = list_queues_by_vault().get(name, [])
    with configuration_change() as change:
        vault = get_vault_row(name)
        precondition(vault.etag)
        keys = EntryWriter(change, vault).clear()
        vault.delete()
        change.remove(DocumentKind.VAULT, name)
        record_change("vault.deleted", name, {"description": (vault.description, None), "entries": (keys, None)})
    return used_by


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
    """Set a value. Setting the same value again changes nothing. With None, `usage` and `git_hosts` stay as they are.

    Raise VaultInvalid, VaultNotFound, VaultEntryChanged, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    with configuration_change() as change:
        row = get_vault_row(vault)
        writer = EntryWriter(change, row)
        _require(only_if, row, writer.find(key), key)
        changes = writer.set(
            EntryInput(key=key, value=value, is_secret=is_secret, usage=usage, git_hosts=git_hosts),
        )
        writer.publish()
        if changes:
            record_change("vault_entry.set", f"{vault}/{key}", changes)
        return row.entries.get(key=key)


def set_entries(
    *,
    vault: str,
    values: Mapping[str, str],
    is_secret: bool | None = None,
    precondition: Precondition = accept_any,
) -> list[str]:
    """Set many values, all or none; return the keys of those that changed. Other entries stay.

    With None, `is_secret` stays as it is; new entries are secret. Raise VaultInvalid with all errors, VaultNotFound,
    VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    check_entries(values)
    with configuration_change() as change:
        row = get_vault_row(vault)
        precondition(row.etag)
        writer = EntryWriter(change, row)
        changed = {
            key: changes
            for key, value in values.items()
            if (changes := writer.set(EntryInput(key=key, value=value, is_secret=is_secret)))
        }
        writer.publish()
        for key, changes in changed.items():
            record_change("vault_entry.set", f"{vault}/{key}", changes)
    return list(changed)


def delete_entry(*, vault: str, key: str, only_if: Condition = ALWAYS) -> None:
    """Delete an entry. Raise VaultNotFound, VaultEntryNotFound, VaultEntryChanged, VaultLocked."""
    get_keyring()  # raises VaultLocked
    with configuration_change() as change:
        row = get_vault_row(vault)
        writer = EntryWriter(change, row)
        entry = writer.find(key)
        _require(only_if, row, entry, key)
        if entry is None:
            raise VaultEntryNotFound(f"The vault {vault} has no entry {key[:80]!r}.")
        writer.delete(entry)
        writer.publish()
        record_change("vault_entry.deleted", f"{vault}/{key}", {"value": REDACTED})


def compare_entries(vault: str, values: Mapping[str, str]) -> list[EntryPreview]:
    """Return how setting these values would change each entry, without showing values. Raise VaultNotFound,
    VaultLocked.

    The comparison is recorded in the audit, because it reveals whether a guess at a secret is right.
    """
    found = preview_entries(vault, values)
    if compared := [
        entry.key for entry in found if entry.outcome in (PreviewOutcome.CHANGED, PreviewOutcome.UNCHANGED)
    ]:
        record_change("vault.compared", vault, {"entries": (None, compared)})
    return found


def export_vault(*, name: str) -> str:
    """Return the values of a vault as lines of a .env file, which the bulk edit accepts. Recorded in the audit.

    Raise VaultNotFound, VaultLocked, VaultUnavailable.
    """
    keyring = get_keyring()
    entries = list(get_vault_row(name).entries.all())
    lines = [format_line(entry.key, keyring.decrypt(entry.aad(name), bytes(entry.ciphertext))) for entry in entries]
    with transaction.atomic():
        record_change("vault.exported", name, {"entries": (None, [entry.key for entry in entries])})
    return "".join(lines)


def record_change(action: str, name: str, changes: Changes) -> None:
    """Record a change of a vault or an entry. The action begins with the kind of the object: `vault_entry.set`."""
    record(action=action, object_kind=action.partition(".")[0], object_name=name, changes=changes)


def _require(only_if: Condition, vault: Vault, entry: VaultEntry | None, key: str) -> None:
    """Raise VaultEntryChanged or PreconditionFailed if a precondition is not met."""
    only_if.precondition(vault.etag)
    present = entry.version if entry else 0
    if only_if.expected_version not in (None, present):
        raise VaultEntryChanged(f"{vault.name}/{key[:80]}", expected=only_if.expected_version or 0, present=present)

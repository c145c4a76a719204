"""Create, change and delete vaults and their entries, and publish them. All operations need the master key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from runqy.audit.actors import current_actor
from runqy.audit.operations import REDACTED, Change, Changes, record
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import Change as ConfigurationChange
from runqy.configuration.operations import configuration_change
from runqy.core.database.errors import model_errors
from runqy.core.preconditions import Precondition, accept_any
from runqy.errors import VaultAlreadyExists, VaultEntryChanged, VaultEntryNotFound, VaultInvalid, VaultUnavailable
from vaults.crypto import get_keyring
from vaults.dotenv import format_line
from vaults.entry_rules import EntryUsage, entry_error, normalize_git_hosts
from vaults.models import EntryVersion, Event, PublishedVault, Vault, VaultEntry
from vaults.queries import find_key_error, list_queues_by_vault

NAME_MAX_LENGTH = 300
AT_ONCE: Changes = {"replace_at_once": (None, True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChange:
    """A change of one entry. A member that is None stays as it is."""

    key: str
    value: str | None = field(default=None, repr=False)
    is_secret: bool | None = None
    """None: a new entry is secret."""
    usage: EntryUsage | None = None
    """None: a new entry is a variable, or with hosts a git token."""
    git_hosts: Sequence[str] | None = None
    is_deleted: bool = False
    expected_version: int | None = None
    """The version that the entry must have. 0: it must not exist. None: any."""


class PreviewOutcome(StrEnum):
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


class EntryWriter:
    """Writes the entries of one vault within one open change."""

    def __init__(self, change: ConfigurationChange, vault: Vault, *, is_new: bool = False) -> None:
        """`change` holds the lock of all changes. `vault` was read under it."""
        self._change, self._vault = change, vault
        self.entries = {entry.key: entry for entry in vault.entries.all()}
        self._noted: list[EntryVersion] = []
        self._at = timezone.now()
        self._notifies_workers = is_new
        self._is_changed = False
        self._has_all_keys = False

    def apply(self, change: EntryChange) -> Changes:
        """Set, restrict or delete an entry; return what changed.

        Raise VaultInvalid, VaultEntryNotFound, VaultEntryChanged, VaultUnavailable.
        """
        entry = self.entries.get(change.key)
        present = entry.version if entry else 0
        if change.expected_version not in (None, present):
            name = f"{self._vault.name}/{change.key[:80]}"
            raise VaultEntryChanged(name, expected=change.expected_version or 0, present=present)
        if change.value is not None and not change.is_deleted:
            return self._set(entry, change, change.value)
        if entry is None:
            raise VaultEntryNotFound(f"The vault {self._vault.name} has no entry {change.key[:80]!r}.")
        if change.is_deleted:
            self._delete(entry)
            return {"value": REDACTED}
        return self._restrict(entry, change)

    def reencrypt(self, entry: VaultEntry, value: str) -> None:
        """Encrypt a value with the first key. Workers have the value, so they are not notified."""
        self._seal(entry, value)
        entry.save(update_fields=["revision", "ciphertext", "sealed_at"])
        self.entries[entry.key] = entry
        self._note(entry.key, entry.version, Event.ROTATED)

    def clear(self) -> list[str]:
        """Delete all entries, before their vault is deleted; return their keys."""
        keys = sorted(self.entries)
        for key in keys:
            self._delete(self.entries[key])
        EntryVersion.objects.bulk_create(self._noted)
        return keys

    def publish(self, *, replaces_at_once: bool = False) -> None:
        """Store the versions and the document to publish, and the time of the change.

        With `replaces_at_once` workers replace processes with other values without taking turns, also if the values
        were set before.
        """
        EntryVersion.objects.bulk_create(self._noted)
        if replaces_at_once:
            self._vault.replacements += 1
            self._notifies_workers = self._is_changed = True
        if self._is_changed:
            self._vault.save()
        body = PublishedVault.of(self.entries.values(), replacements=self._vault.replacements).encode()
        self._change.put(DocumentKind.VAULT, self._vault.name, body, notify_workers=self._notifies_workers)

    def _set(self, entry: VaultEntry | None, new: EntryChange, value: str) -> Changes:
        if message := entry_error(new.key, value):
            raise VaultInvalid(message)
        usage, git_hosts = _resolve_declaration(entry, new)
        # Compared first: once usage or hosts are changed, the ciphertext cannot be decrypted with them.
        is_same = entry is not None and entry.has_value(value)
        entry = entry or VaultEntry(vault=self._vault, key=new.key)
        is_secret = entry.is_secret if new.is_secret is None else new.is_secret
        changes: dict[str, Change] = {}
        if not entry.pk or entry.is_secret != is_secret:
            changes["is_secret"] = (entry.is_secret if entry.pk else None, is_secret)
        entry.is_secret = is_secret
        changes |= self._declare(entry, usage, git_hosts)
        if not is_same:
            self._encrypt(entry, value)
            changes["value"] = REDACTED
        elif changes:
            self._seal(entry, value)
        elif not get_keyring().is_current(bytes(entry.ciphertext)):
            # The same value under an older master key: it is encrypted with the first one on this occasion.
            self.reencrypt(entry, value)
        if changes:
            self._save(entry)
        return changes

    def _restrict(self, entry: VaultEntry, change: EntryChange) -> Changes:
        """Restrict the usage of an entry without knowing its value.

        Raise VaultInvalid if it would be extended, and VaultUnavailable if the value cannot be encrypted for the new
        usage.
        """
        usage, git_hosts = _resolve_declaration(entry, change)
        if not entry.allows(usage, git_hosts):
            raise VaultInvalid(f"{entry.key}: Enter the value again to extend its usage or its git hosts.")
        before = entry.aad
        changes = self._declare(entry, usage, git_hosts)
        if changes:
            self._seal(entry, get_keyring().decrypt(before, bytes(entry.ciphertext)))
            self._save(entry)
        return changes

    def _delete(self, entry: VaultEntry) -> None:
        self._note(entry.key, entry.version + 1, Event.DELETED)
        del self.entries[entry.key]
        entry.delete()
        self._notifies_workers = self._is_changed = True

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
        self.entries[entry.key] = entry
        self._is_changed = True

    def _encrypt(self, entry: VaultEntry, value: str) -> None:
        """Set a new value. Raise VaultUnavailable if the server lacks the key of any stored entry."""
        # The first key is probably wrong then, and the value would be lost with it.
        if not self._has_all_keys and (message := find_key_error()):
            raise VaultUnavailable(message)
        self._has_all_keys = True
        self._seal(entry, value)
        entry.version = entry.version + 1 if entry.pk else self._first_version(entry.key)
        self._notifies_workers = True
        self._note(entry.key, entry.version, Event.SET)

    def _seal(self, entry: VaultEntry, value: str) -> None:
        entry.revision = self._change.revision
        entry.ciphertext = get_keyring().encrypt(entry.aad, value)
        entry.sealed_at = self._at

    def _first_version(self, key: str) -> int:
        """Return the version of a new entry. It continues those of a deleted one with the same key."""
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


def _resolve_declaration(entry: VaultEntry | None, change: EntryChange) -> tuple[EntryUsage, list[str]]:
    """Return the usage of an entry and its hosts. None keeps what it has, but hosts only while it is a git token.

    Hosts without a usage make a new entry a git token, and a variable a variable and a git token. Raise VaultInvalid.
    """
    usage, git_hosts = change.usage, change.git_hosts
    if usage is None:
        usage = entry.get_usage() if entry else EntryUsage.ENVIRONMENT
        if git_hosts and not usage.is_git_token:
            usage = EntryUsage.BOTH if entry else EntryUsage.GIT_TOKEN
    if git_hosts is None:
        git_hosts = entry.git_hosts if entry and usage.is_git_token else []
    try:
        hosts = normalize_git_hosts(git_hosts)
    except ValueError as error:
        raise VaultInvalid(f"{change.key[:80]}: git_hosts: {error}") from error
    return usage, hosts


def create_vault(*, name: str, description: str = "") -> Vault:
    """Create an empty vault. Raise VaultInvalid, VaultAlreadyExists, VaultLocked."""
    return save_vault(name=name, description=description, is_new=True)


def save_vault(
    *,
    name: str,
    description: str,
    edits: Sequence[EntryChange] = (),
    is_new: bool = False,
    replaces_at_once: bool = False,
) -> Vault:
    """Create or change a vault, with all edits of its entries: one change, one publication, one audit record.

    With `replaces_at_once` all workers replace their processes at once, instead of taking turns.
    Raise VaultInvalid, VaultAlreadyExists, VaultNotFound, VaultEntryNotFound, VaultEntryChanged, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    with configuration_change() as change:
        if is_new and Vault.objects.find_named(name):
            raise VaultAlreadyExists(f"A vault {name} already exists.")
        vault = Vault(name=name) if is_new else Vault.objects.get_named(name)
        before = None if is_new else vault.description
        changes: dict[str, Change] = {"description": (before, description)} if before != description else {}
        if is_new or changes:
            vault.description = description
            if errors := model_errors(vault):
                raise VaultInvalid(errors=errors)
            vault.save()
        writer = EntryWriter(change, vault, is_new=is_new)
        for edit in edits:
            changes |= {f"{edit.key}.{name}": values for name, values in writer.apply(edit).items()}
        writer.publish(replaces_at_once=replaces_at_once)
        changes |= AT_ONCE if replaces_at_once else {}
        if changes or is_new:
            record_change("vault.created" if is_new else "vault.updated", name, changes)
    return vault


def delete_vault(*, name: str, precondition: Precondition = accept_any) -> list[str]:
    """Delete a vault and all its entries; return the names of the queues that use it.

    Workers cannot register for those until it exists again. Raise VaultNotFound, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    used_by = list_queues_by_vault().get(name, [])
    with configuration_change() as change:
        vault = Vault.objects.get_named(name)
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
    expected_version: int | None = None,
    replaces_at_once: bool = False,
    precondition: Precondition = accept_any,
) -> VaultEntry:
    """Set a value. Setting the same value again changes nothing. With None, `usage` and `git_hosts` stay as they are.

    With `replaces_at_once` all workers replace their processes at once, instead of taking turns.

    Raise VaultInvalid, VaultNotFound, VaultEntryChanged, VaultLocked.
    """
    change = EntryChange(
        key=key,
        value=value,
        is_secret=is_secret,
        usage=usage,
        git_hosts=git_hosts,
        expected_version=expected_version,
    )
    entries, _ = _change_entries(vault, [change], precondition=precondition, replaces_at_once=replaces_at_once)
    return entries[key]


def set_entries(
    *,
    vault: str,
    values: Mapping[str, str],
    is_secret: bool | None = None,
    replaces_at_once: bool = False,
    precondition: Precondition = accept_any,
) -> list[str]:
    """Set many values, all or none; return the keys of those that changed. Other entries stay.

    With `replaces_at_once` all workers replace their processes at once, instead of taking turns. With None, `is_secret`
    stays as it is; new entries are secret. Raise VaultInvalid with all errors, VaultNotFound, VaultLocked.
    """
    get_keyring()  # raises VaultLocked
    if messages := [message for key, value in values.items() if (message := entry_error(key, value))]:
        raise VaultInvalid(errors=messages)
    entries = [EntryChange(key=key, value=value, is_secret=is_secret) for key, value in values.items()]
    return _change_entries(vault, entries, precondition=precondition, replaces_at_once=replaces_at_once)[1]


def delete_entry(
    *, vault: str, key: str, expected_version: int | None = None, precondition: Precondition = accept_any
) -> None:
    """Delete an entry. Raise VaultNotFound, VaultEntryNotFound, VaultEntryChanged, VaultLocked."""
    deletion = EntryChange(key=key, is_deleted=True, expected_version=expected_version)
    _change_entries(vault, [deletion], precondition=precondition)


def _change_entries(
    vault: str, entries: Iterable[EntryChange], *, precondition: Precondition, replaces_at_once: bool = False
) -> tuple[Mapping[str, VaultEntry], list[str]]:
    """Change entries of a vault, all or none, each with an audit record.

    Return all entries of the vault as this change left them, and the keys of those that changed.
    """
    get_keyring()  # raises VaultLocked
    with configuration_change() as change:
        row = Vault.objects.get_named(vault)
        precondition(row.etag)
        writer = EntryWriter(change, row)
        changed = [(entry, changes) for entry in entries if (changes := writer.apply(entry))]
        writer.publish(replaces_at_once=replaces_at_once)
        for entry, changes in changed:
            action = "vault_entry.deleted" if entry.is_deleted else "vault_entry.set"
            record_change(action, f"{vault}/{entry.key}", changes)
        if replaces_at_once:
            record_change("vault.updated", vault, AT_ONCE)
    return writer.entries, [entry.key for entry, _ in changed]


def compare_entries(vault: str, values: Mapping[str, str]) -> list[EntryPreview]:
    """Return how setting these values would change each entry, without showing values. Raise VaultNotFound,
    VaultLocked.

    The comparison is recorded in the audit, because it reveals whether a guess at a secret is right.
    """
    get_keyring()  # raises VaultLocked
    entries = {entry.key: entry for entry in Vault.objects.get_named(vault).entries.all()}

    def preview(key: str, value: str) -> EntryPreview:
        entry = entries.get(key)
        if error := entry_error(key, value):
            return EntryPreview(key=key, outcome=PreviewOutcome.REFUSED, error=error)
        if entry is None:
            return EntryPreview(key=key, outcome=PreviewOutcome.ADDED)
        outcome = PreviewOutcome.UNCHANGED if entry.has_value(value) else PreviewOutcome.CHANGED
        return EntryPreview(key=key, outcome=outcome)

    found = [preview(key, value) for key, value in values.items()]
    compared = [entry.key for entry in found if entry.outcome in (PreviewOutcome.CHANGED, PreviewOutcome.UNCHANGED)]
    if compared:
        record_change("vault.compared", vault, {"entries": (None, compared)})
    return found


def export_vault(*, name: str) -> str:
    """Return the values of a vault as lines of a .env file, which the bulk edit accepts. Recorded in the audit.

    Raise VaultNotFound, VaultLocked, VaultUnavailable.
    """
    get_keyring()  # raises VaultLocked
    entries = list(Vault.objects.get_named(name).entries.all())
    lines = [format_line(entry.key, entry.decrypt()) for entry in entries]
    with transaction.atomic():
        record_change("vault.exported", name, {"entries": (None, [entry.key for entry in entries])})
    return "".join(lines)


def record_change(action: str, name: str, changes: Changes) -> None:
    """Record a change of a vault or an entry. The action begins with the kind of the object: `vault_entry.set`."""
    record(action=action, object_kind=action.partition(".")[0], object_name=name, changes=changes)

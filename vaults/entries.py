"""Writes entries while a change of the configuration is open: counts versions, seals values, notes who did it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.db.models import Max
from django.utils import timezone

from runqy.audit.actors import current_actor
from runqy.audit.changes import CHANGED, Change, Changes
from runqy.errors import VaultInvalid
from runqy.publication.documents import Kind
from runqy.publication.operations import Change as ConfigurationChange
from vaults.keyring import get_keyring
from vaults.models import EntryVersion, Event, Vault, VaultEntry
from vaults.names import EntryUsage
from vaults.published import encode_vault
from vaults.rows import check_entry, holds, resolve_declaration

LONGEST_NAME = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry as it is to be."""

    key: str
    value: str = field(repr=False)
    is_secret: bool | None = True
    """None: as it is, and secret if it is new."""
    usage: EntryUsage | None = None
    """None: as it is, and a variable if it is new."""
    git_hosts: Sequence[str] | None = None
    """None: as they are."""


class EntryWriter:
    """Writes the entries of one vault in one open change."""

    def __init__(self, change: ConfigurationChange, vault: Vault) -> None:
        """Take the change, which holds the lock of all changes, and the vault as read inside of it."""
        self._change, self._vault = change, vault
        self._keyring = get_keyring()
        self._entries = {entry.key: entry for entry in vault.entries.all()}
        self._noted: list[EntryVersion] = []
        self._at = timezone.now()
        self._is_heard = False
        """Whether a value changed, so that workers are to be told."""
        self._is_changed = False

    def set(self, new: NewEntry, *, event: Event = Event.SET) -> Changes:
        """Set an entry and return what changed, nothing where it is so already. Raises VaultInvalid."""
        check_entry(new.key, new.value)
        entry = self.find(new.key)
        changes: dict[str, Change] = {}
        is_secret = new.is_secret
        if is_secret is None:
            is_secret = True if entry is None else entry.is_secret
        if entry is None or entry.is_secret != is_secret:
            changes["is_secret"] = (None if entry is None else entry.is_secret, is_secret)
        usage, git_hosts = resolve_declaration(new.key, entry, new.usage, new.git_hosts)
        entry = entry or VaultEntry(vault=self._vault, key=new.key)
        entry.is_secret = is_secret
        changes |= self._declare(entry, usage, git_hosts)
        if entry.pk is None or not holds(self._keyring, self._vault.name, entry, new.value):
            self._seal(entry, new.value, event)
            changes["value"] = CHANGED
        elif not self._keyring.is_current(bytes(entry.ciphertext)):
            self.reseal(entry, new.value)
        if changes:
            self._save(entry)
        return changes

    def narrow(self, entry: VaultEntry, usage: EntryUsage, git_hosts: Sequence[str]) -> Changes:
        """Let an entry be used for less than before, and return what changed. Raises VaultInvalid for anything more."""
        wanted, hosts = resolve_declaration(entry.key, entry, usage, git_hosts)
        if not narrows(entry, wanted, hosts):
            raise VaultInvalid(
                f"{entry.key}: enter the value again to let it be used for more, or sent to other hosts."
            )
        changes = self._declare(entry, wanted, hosts)
        if changes:
            self._save(entry)
        return changes

    def reseal(self, entry: VaultEntry, value: str) -> None:
        """Encrypt a value anew with the first key; workers, who have it, are not concerned."""
        entry.revision = self._change.revision
        entry.ciphertext = self._keyring.seal(entry.place(self._vault.name), value)
        entry.sealed_at = self._at
        entry.save(update_fields=["revision", "ciphertext", "sealed_at"])
        self._entries[entry.key] = entry
        self._note(entry.key, entry.version, Event.ROTATED)

    def delete(self, entry: VaultEntry) -> None:
        """Delete an entry; its versions remain."""
        self._note(entry.key, entry.version + 1, Event.DELETED)
        del self._entries[entry.key]
        entry.delete()
        self._is_heard = self._is_changed = True

    def find(self, key: str) -> VaultEntry | None:
        """Return an entry or None."""
        return self._entries.get(key)

    def clear(self) -> list[str]:
        """Delete all entries, of a vault that goes too; return their keys."""
        keys = sorted(self._entries)
        for key in keys:
            self.delete(self._entries[key])
        EntryVersion.objects.bulk_create(self._noted)
        return keys

    def publish(self) -> None:
        """Keep what happened, store what is to be published about the vault, and when it was changed."""
        EntryVersion.objects.bulk_create(self._noted)
        if self._is_changed:
            self._vault.save()
        put_vault(self._change, self._vault, self._entries.values(), is_quiet=not self._is_heard)

    def _declare(self, entry: VaultEntry, usage: EntryUsage, git_hosts: list[str]) -> dict[str, Change]:
        """Set what an entry is used for, and return what changed."""
        before = entry.pk is not None
        changes: dict[str, Change] = {}
        if entry.usage != usage:
            changes["usage"] = (entry.usage if before else None, usage.value)
        if entry.git_hosts != git_hosts:
            changes["git_hosts"] = (entry.git_hosts if before else None, git_hosts)
        entry.usage, entry.git_hosts = usage.value, git_hosts
        self._is_heard |= bool(changes)
        return changes

    def _save(self, entry: VaultEntry) -> None:
        entry.updated_by = current_actor().name[:LONGEST_NAME]
        entry.save()
        self._entries[entry.key] = entry
        self._is_changed = True

    def _seal(self, entry: VaultEntry, value: str, event: Event) -> None:
        """Give an entry a new value."""
        entry.revision = self._change.revision
        entry.ciphertext = self._keyring.seal(entry.place(self._vault.name), value)
        entry.sealed_at = self._at
        entry.version = entry.version + 1 if entry.pk else self._first_version(entry.key)
        self._is_heard = True
        self._note(entry.key, entry.version, event)

    def _first_version(self, key: str) -> int:
        """Return the number of a new entry: the next one, if there was an entry with this key before."""
        past = EntryVersion.objects.filter(vault=self._vault.name, key=key).aggregate(last=Max("version"))
        return (past["last"] or 0) + 1

    def _note(self, key: str, version: int, event: Event) -> None:
        """Note what happened to an entry."""
        actor = current_actor()
        self._noted.append(
            EntryVersion(
                vault=self._vault.name,
                key=key,
                version=version,
                event=event,
                at=self._at,
                actor_kind=actor.kind,
                actor_id=actor.id[:LONGEST_NAME],
                actor_name=actor.name[:LONGEST_NAME],
            )
        )


def narrows(entry: VaultEntry, usage: EntryUsage, git_hosts: Iterable[str]) -> bool:
    """Return whether an entry would be used for no more than it is, and sent to no other hosts."""
    known = entry.get_usage()
    is_wider = (usage.is_variable and not known.is_variable) or (usage.is_git_token and not known.is_git_token)
    return not is_wider and set(git_hosts) <= set(entry.git_hosts)


def put_vault(
    change: ConfigurationChange, vault: Vault, entries: Iterable[VaultEntry] = (), *, is_quiet: bool = False
) -> None:
    """Store what is to be published about a vault with these entries."""
    change.put(Kind.VAULT, vault.name, encode_vault(entries), is_quiet=is_quiet)

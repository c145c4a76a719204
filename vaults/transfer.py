"""Takes whole vaults out of an instance and into another, sealed under a passphrase."""

from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from runqy.audit.changes import Change, Changes
from runqy.errors import ExportUnreadable, VaultAlreadyExists
from runqy.publication.operations import Change as ConfigurationChange
from runqy.publication.operations import configuration_change
from vaults.crypto import Keyring
from vaults.entries import EntryWriter, NewEntry
from vaults.export_file import ExportedEntry, ExportedVault, check_passphrase, open_export, seal_export
from vaults.keyring import get_keyring
from vaults.models import Event, Vault, VaultEntry
from vaults.operations import record_change, record_comparison
from vaults.queries import EntryPreview, Outcome
from vaults.rows import check_entries, check_vault, find_vault, holds, resolve_declaration

__all__ = ["Import", "export_vault", "import_vault", "preview_import"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What an import does, or did, to a vault; no values."""

    vault: str
    is_new: bool
    """Whether the vault is made by it; one that is there has to be replaced."""
    entries: tuple[EntryPreview, ...]
    """In order of their keys."""

    def keys(self, outcome: Outcome) -> list[str]:
        """Return the keys of the entries with this outcome."""
        return [entry.key for entry in self.entries if entry.outcome == outcome]


def export_vault(*, name: str, passphrase: str) -> bytes:
    """Return a vault as a file that only the passphrase opens. It is recorded: secrets leave the server.

    Raises VaultNotFound, VaultUnavailable, VaultLocked, PassphraseRefused.
    """
    keyring = get_keyring()
    check_passphrase(passphrase)
    vault = find_vault(name)
    entries = [_exported(keyring, name, entry) for entry in vault.entries.all()]
    exported_at = timezone.now().isoformat(timespec="seconds")
    content = seal_export(
        ExportedVault(name=name, description=vault.description, exported_at=exported_at, entries=tuple(entries)),
        passphrase,
    )
    with transaction.atomic():
        record_change("vault.exported", name, {"entries": (None, [entry.key for entry in entries])})
    return content


def preview_import(*, content: bytes, passphrase: str, name: str = "") -> Import:
    """Return what importing a file would do; `name` is the vault's if it is not to be called as in the file.

    It is recorded, as by `compare_entries`.

    Raises ExportUnreadable, ExportNotOpened, VaultInvalid, VaultLocked.
    """
    exported = _opened(content, passphrase, name)
    found = _compared(exported, Vault.objects.filter(name=exported.name).first())
    record_comparison(found.vault, found.entries)
    return found


def import_vault(*, content: bytes, passphrase: str, name: str = "", replace: bool = False) -> Import:
    """Make a vault as a file says, in one revision; `replace` one that is there: what the file has not is removed.

    Raises VaultAlreadyExists and whatever `preview_import` raises.
    """
    exported = _opened(content, passphrase, name)
    with configuration_change() as change:
        vault = Vault.objects.filter(name=exported.name).first()
        if vault is not None and not replace:
            raise VaultAlreadyExists(f"A vault {exported.name} exists already: replace it, or give another name.")
        done = _compared(exported, vault)
        described = None if vault is None else vault.description
        _write(change, vault or Vault.objects.create(name=exported.name), exported, done)
        record_change("vault.imported", exported.name, _changes(done, described, exported.description))
    return done


def _exported(keyring: Keyring, vault: str, entry: VaultEntry) -> ExportedEntry:
    """Return an entry as it is exported; older servers read those that are no git tokens."""
    is_token = entry.get_usage().is_git_token
    return ExportedEntry(
        key=entry.key,
        value=keyring.open(entry.place(vault), bytes(entry.ciphertext)),
        is_secret=entry.is_secret,
        usage=entry.get_usage() if is_token else None,
        git_hosts=tuple(entry.git_hosts) if is_token else None,
    )


def _opened(content: bytes, passphrase: str, name: str) -> ExportedVault:
    """Return what is in a file, under the name that it is to have here, checked by the rules of vaults."""
    get_keyring()
    read = open_export(content, passphrase)
    exported = ExportedVault(
        name=name or read.name, description=read.description, exported_at=read.exported_at, entries=read.entries
    )
    check_vault(exported.name, exported.description)
    values = {entry.key: entry.value for entry in exported.entries}
    if len(values) != len(exported.entries):
        raise ExportUnreadable("The export has an entry twice.")
    check_entries(values)
    for entry in exported.entries:
        resolve_declaration(entry.key, None, entry.usage, entry.git_hosts)
    return exported


def _compared(exported: ExportedVault, vault: Vault | None) -> Import:
    """Return how a vault differs from what is to be imported."""
    present = {} if vault is None else {entry.key: entry for entry in vault.entries.all()}
    outcomes = {entry.key: _outcome(exported.name, present.get(entry.key), entry) for entry in exported.entries}
    outcomes |= dict.fromkeys(present.keys() - outcomes.keys(), Outcome.REMOVED)
    entries = tuple(EntryPreview(key=key, outcome=outcomes[key]) for key in sorted(outcomes))
    return Import(vault=exported.name, is_new=vault is None, entries=entries)


def _outcome(vault: str, present: VaultEntry | None, entry: ExportedEntry) -> Outcome:
    """Return what importing an entry does."""
    if present is None:
        return Outcome.ADDED
    declared = resolve_declaration(entry.key, present, entry.usage, entry.git_hosts)
    is_same = (present.is_secret, present.usage, present.git_hosts) == (entry.is_secret, *declared)
    is_same = is_same and holds(get_keyring(), vault, present, entry.value)
    return Outcome.UNCHANGED if is_same else Outcome.CHANGED


def _write(change: ConfigurationChange, vault: Vault, exported: ExportedVault, done: Import) -> None:
    """Make a vault as it is to be."""
    vault.description = exported.description
    vault.save()
    writer = EntryWriter(change, vault)
    for entry in exported.entries:
        new = NewEntry(
            key=entry.key,
            value=entry.value,
            is_secret=entry.is_secret,
            usage=entry.usage,
            git_hosts=entry.git_hosts,
        )
        writer.set(new, event=Event.IMPORTED)
    for key in done.keys(Outcome.REMOVED):
        if row := writer.find(key):
            writer.delete(row)
    writer.publish()


def _changes(done: Import, described: str | None, description: str) -> Changes:
    """Return an import as the audit keeps it."""
    told = (Outcome.ADDED, Outcome.CHANGED, Outcome.REMOVED)
    changes: dict[str, Change] = {outcome: (None, keys) for outcome in told if (keys := done.keys(outcome))}
    if described != description:
        changes["description"] = (described, description)
    return changes

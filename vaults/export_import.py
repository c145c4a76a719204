"""Export and import of whole vaults, encrypted with a passphrase."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from runqy.audit.changes import Change, Changes
from runqy.config_sync.operations import Change as ConfigurationChange
from runqy.config_sync.operations import configuration_change
from runqy.errors import ExportUnreadable, VaultAlreadyExists, VaultInvalid
from runqy.model_errors import model_errors
from vaults.crypto import Keyring, get_keyring
from vaults.entry_rules import check_entries
from vaults.export_file import ExportedEntry, ExportedVault, check_passphrase, decrypt_export, encrypt_export
from vaults.models import Event, Vault, VaultEntry
from vaults.operations import EntryInput, EntryWriter, record_change, record_comparison, resolve_declaration
from vaults.queries import EntryPreview, PreviewOutcome, find_vault_row, get_vault_row, is_entry_value

__all__ = ["VaultImport", "export_vault", "import_vault", "preview_import"]

_SET_WHEN_SAVED = ("vault", "ciphertext", "revision", "version", "updated_by", "sealed_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultImport:
    """The effect of an import on a vault, without values."""

    vault: str
    is_new: bool
    """Whether the import creates the vault; an existing one must be replaced."""
    entries: tuple[EntryPreview, ...]

    def keys(self, outcome: PreviewOutcome) -> list[str]:
        return [entry.key for entry in self.entries if entry.outcome == outcome]


def export_vault(*, name: str, passphrase: str) -> bytes:
    """Return a vault as a file that is encrypted with the passphrase. The export is recorded.

    Raise VaultNotFound, VaultUnavailable, VaultLocked, PassphraseRefused.
    """
    keyring = get_keyring()
    check_passphrase(passphrase)
    vault = get_vault_row(name)
    entries = [_exported(keyring, name, entry) for entry in vault.entries.all()]
    exported_at = timezone.now().isoformat(timespec="seconds")
    content = encrypt_export(
        ExportedVault(name=name, description=vault.description, exported_at=exported_at, entries=tuple(entries)),
        passphrase,
    )
    with transaction.atomic():
        record_change("vault.exported", name, {"entries": (None, [entry.key for entry in entries])})
    return content


def preview_import(*, content: bytes, passphrase: str, name: str = "") -> VaultImport:
    """Return the effect of importing a file; `name` replaces the name in the file. Recorded as by `compare_entries`.

    Raise ExportUnreadable, ExportNotOpened, VaultInvalid, VaultLocked.
    """
    exported = _read(content, passphrase, name)
    found = _compare(exported, find_vault_row(exported.name))
    record_comparison(found.vault, found.entries)
    return found


def import_vault(*, content: bytes, passphrase: str, name: str = "", replace: bool = False) -> VaultImport:
    """Create a vault from a file in one revision, or `replace` one: entries that are not in the file are deleted.

    Raise VaultAlreadyExists, and as `preview_import`.
    """
    exported = _read(content, passphrase, name)
    with configuration_change() as change:
        vault = find_vault_row(exported.name)
        if vault is not None and not replace:
            raise VaultAlreadyExists(f"A vault {exported.name} already exists: replace it, or use another name.")
        done = _compare(exported, vault)
        described = None if vault is None else vault.description
        _write(change, vault or Vault.objects.create(name=exported.name), exported, done)
        record_change("vault.imported", exported.name, _changes(done, described, exported.description))
    return done


def _exported(keyring: Keyring, vault: str, entry: VaultEntry) -> ExportedEntry:
    """Return an entry for export; older servers read those that are no git tokens."""
    is_token = entry.get_usage().is_git_token
    return ExportedEntry(
        key=entry.key,
        value=keyring.decrypt(entry.aad(vault), bytes(entry.ciphertext)),
        is_secret=entry.is_secret,
        usage=entry.get_usage() if is_token else None,
        git_hosts=tuple(entry.git_hosts) if is_token else None,
    )


def _read(content: bytes, passphrase: str, name: str) -> ExportedVault:
    """Return the validated content of a file, with its new name."""
    get_keyring()
    read = decrypt_export(content, passphrase)
    exported = ExportedVault(
        name=name or read.name, description=read.description, exported_at=read.exported_at, entries=read.entries
    )
    values = {entry.key: entry.value for entry in exported.entries}
    if len(values) != len(exported.entries):
        raise ExportUnreadable("The export contains an entry twice.")
    check_entries(values)
    if errors := list(_model_errors(exported)):
        raise VaultInvalid(errors=errors)
    return exported


def _model_errors(exported: ExportedVault) -> Iterator[str]:
    """Yield the errors of a vault and of the usage of its entries, as saving them would."""
    vault = find_vault_row(exported.name) or Vault(name=exported.name)
    vault.description = exported.description
    yield from model_errors(vault)
    for entry in exported.entries:
        usage, git_hosts = resolve_declaration(entry.key, None, entry.usage, entry.git_hosts)
        row = VaultEntry(key=entry.key, usage=usage.value, git_hosts=git_hosts)
        yield from model_errors(row, exclude=_SET_WHEN_SAVED, prefix=entry.key[:80], validate_constraints=False)


def _compare(exported: ExportedVault, vault: Vault | None) -> VaultImport:
    """Compare a vault with an export."""
    present = {} if vault is None else {entry.key: entry for entry in vault.entries.all()}
    outcomes = {entry.key: _outcome(exported.name, present.get(entry.key), entry) for entry in exported.entries}
    outcomes |= dict.fromkeys(present.keys() - outcomes.keys(), PreviewOutcome.REMOVED)
    entries = tuple(EntryPreview(key=key, outcome=outcomes[key]) for key in sorted(outcomes))
    return VaultImport(vault=exported.name, is_new=vault is None, entries=entries)


def _outcome(vault: str, present: VaultEntry | None, entry: ExportedEntry) -> PreviewOutcome:
    if present is None:
        return PreviewOutcome.ADDED
    declared = resolve_declaration(entry.key, present, entry.usage, entry.git_hosts)
    is_same = (present.is_secret, present.usage, present.git_hosts) == (entry.is_secret, *declared)
    is_same = is_same and is_entry_value(get_keyring(), vault, present, entry.value)
    return PreviewOutcome.UNCHANGED if is_same else PreviewOutcome.CHANGED


def _write(change: ConfigurationChange, vault: Vault, exported: ExportedVault, done: VaultImport) -> None:
    vault.description = exported.description
    vault.save()
    writer = EntryWriter(change, vault)
    for entry in exported.entries:
        new = EntryInput(
            key=entry.key,
            value=entry.value,
            is_secret=entry.is_secret,
            usage=entry.usage,
            git_hosts=entry.git_hosts,
        )
        writer.set(new, event=Event.IMPORTED)
    for key in done.keys(PreviewOutcome.REMOVED):
        if row := writer.find(key):
            writer.delete(row)
    writer.publish()


def _changes(done: VaultImport, described: str | None, description: str) -> Changes:
    """Return the changes for the audit."""
    recorded = (PreviewOutcome.ADDED, PreviewOutcome.CHANGED, PreviewOutcome.REMOVED)
    changes: dict[str, Change] = {outcome: (None, keys) for outcome in recorded if (keys := done.keys(outcome))}
    if described != description:
        changes["description"] = (described, description)
    return changes

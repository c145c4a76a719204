"""Reads vaults for people, masked, from the database."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.conf import settings
from django.db.models import Count

from runqy.errors import VaultEntryNotFound, VaultLocked, VaultUnavailable
from runqy.publication.documents import Kind, field
from runqy.publication.models import StoredDocument
from vaults.fingerprints import fingerprint
from vaults.keyring import get_keyring
from vaults.models import EntryVersion, Vault, VaultEntry
from vaults.names import EntryUsage, masked, problem_of_variable
from vaults.rows import find_vault, holds, problem_of_entry

__all__ = [
    "EntryDisplay",
    "EntryPreview",
    "Outcome",
    "ShownEntry",
    "VaultSummary",
    "get_vault",
    "is_unlocked",
    "list_vaults",
    "list_versions",
    "preview_entries",
    "queues_of_vaults",
    "require_key",
    "show_entry",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDisplay:
    """An entry as people may see it."""

    key: str
    value: str
    """Masked where it is a secret."""
    is_secret: bool
    version: int
    """1, 2, 3 …: which value it is."""
    updated_by: str
    fingerprint: str
    """Equal for equal values, in all vaults."""
    created_at: datetime
    updated_at: datetime
    usage: EntryUsage
    git_hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEntry:
    """What people may see of one entry, also of one that does not open."""

    value: str = ""
    """Masked where it is a secret."""
    is_secret: bool = True
    fingerprint: str = ""
    problem: str = ""
    """Why it does not open."""


class Outcome(StrEnum):
    """What setting a value would do."""

    ADDED = "added"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPreview:
    """What would happen to an entry; never its value."""

    key: str
    outcome: Outcome
    problem: str = ""
    """Why it is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSummary:
    """A vault with its entries as people may see them."""

    name: str
    description: str
    entries: tuple[EntryDisplay, ...]
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


def get_vault(name: str) -> VaultSummary:
    """Return a vault with its entries, secrets masked. Raises VaultNotFound, VaultUnavailable, VaultLocked."""
    get_keyring()
    vault = find_vault(name)
    return VaultSummary(
        name=vault.name,
        description=vault.description,
        entries=tuple(_view(vault, entry) for entry in vault.entries.all()),
        created_at=vault.created_at,
        updated_at=vault.updated_at,
        etag=vault.etag,
    )


def show_entry(entry: VaultEntry) -> ShownEntry:
    """Return what people may see of an entry; asks the database for its vault unless that was fetched along."""
    try:
        value = get_keyring().open(entry.place(entry.vault.name), bytes(entry.ciphertext))
    except (VaultLocked, VaultUnavailable) as error:
        return ShownEntry(is_secret=entry.is_secret, problem=error.detail)
    return ShownEntry(
        value=masked(value) if entry.is_secret else value,
        is_secret=entry.is_secret,
        fingerprint=fingerprint(value, settings.SECRET_KEY),
    )


def problems_of_vault(vault: Vault) -> list[str]:
    """Return why entries of a vault do not open, a sentence for each that does not. One query."""
    return [problem for entry in vault.entries.all() if (problem := show_entry(entry).problem)]


def queues_of_vaults() -> dict[str, list[str]]:
    """Return for each vault the queues that use it, in order; also for one that is missing. One query."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    queues = StoredDocument.objects.filter(kind=Kind.QUEUE, body__isnull=False).order_by("name")
    prefix = field(Kind.VAULT, "")
    for queue, uses in queues.values_list("name", "uses"):
        for use in dict.fromkeys(uses):
            if use.startswith(prefix):
                found[use.removeprefix(prefix)].append(queue)
    return dict(found)


def list_versions(vault: str, key: str, *, before: int | None = None, limit: int = 30) -> list[EntryVersion]:
    """Return what happened to an entry, the latest first, from before the row with this id; also of a deleted entry.

    Raises VaultNotFound, VaultEntryNotFound, VaultLocked.
    """
    get_keyring()
    find_vault(vault)
    versions = EntryVersion.objects.filter(vault=vault, key=key)
    if problem_of_variable(key) or not versions.exists():
        raise VaultEntryNotFound(f"The vault {vault} has no entry {key[:80]!r} and never had.")
    if before is not None:
        versions = versions.filter(pk__lt=before)
    return list(versions.order_by("-pk")[:limit])


def preview_entries(vault: str, values: Mapping[str, str]) -> list[EntryPreview]:
    """Tell what setting these values would do to each, in order, without a value. Raises VaultNotFound, VaultLocked."""
    keyring = get_keyring()
    row = find_vault(vault)
    entries = {entry.key: entry for entry in row.entries.all()}

    def preview(key: str, value: str) -> EntryPreview:
        entry = entries.get(key)
        if problem := problem_of_entry(key, value):
            return EntryPreview(key=key, outcome=Outcome.REFUSED, problem=problem)
        if entry is None:
            return EntryPreview(key=key, outcome=Outcome.ADDED)
        is_same = holds(keyring, vault, entry, value)
        return EntryPreview(key=key, outcome=Outcome.UNCHANGED if is_same else Outcome.CHANGED)

    return [preview(key, value) for key, value in values.items()]


def _view(vault: Vault, entry: VaultEntry) -> EntryDisplay:
    """Return an entry as people may see it."""
    value = get_keyring().open(entry.place(vault.name), bytes(entry.ciphertext))
    return EntryDisplay(
        key=entry.key,
        value=masked(value) if entry.is_secret else value,
        is_secret=entry.is_secret,
        version=entry.version,
        updated_by=entry.updated_by,
        fingerprint=fingerprint(value, settings.SECRET_KEY),
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        usage=entry.get_usage(),
        git_hosts=tuple(entry.git_hosts),
    )

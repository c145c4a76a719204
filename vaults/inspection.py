"""Looks at all vaults at once, in the database and as they are published: which keys they are under, and what opens."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Min

from runqy.errors import BrokerUnavailable, VaultUnavailable
from runqy.publication.documents import Kind, field
from runqy.publication.models import StoredDocument
from runqy.publication.republishing import compare_configuration, published_documents
from vaults.crypto import Place, used_key_id
from vaults.keyring import get_keyring
from vaults.models import KEY_ID, Vault, VaultEntry
from vaults.published import PublishedVault, decode_vault, encode_vault

__all__ = ["KeyUse", "VaultStatus", "find_unopened", "find_vault_status"]

_PREFIX = field(Kind.VAULT, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """What is encrypted with a master key."""

    key_id: str
    is_first: bool
    is_known: bool
    """Whether it is in RUNQY_VAULT_MASTER_KEY."""
    entries: int
    published: int
    """Entries of the published copy, as far as it can be read."""
    oldest: datetime | None
    """When the first of its ciphertexts was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultStatus:
    """How all vaults are."""

    vaults: int
    entries: int
    keys: tuple[KeyUse, ...]
    """Those of the setting in order, then those that are missing in it."""
    published: str
    """`agrees`, `differs` or `unreachable`."""
    differing: tuple[str, ...]
    """The vaults whose published copy is not as the database says."""

    @property
    def removable(self) -> tuple[str, ...]:
        """Return the ids of old keys that nothing needs any more."""
        if self.published == "unreachable":
            return ()
        return tuple(use.key_id for use in self.keys if not (use.is_first or use.entries or use.published))


def find_vault_status() -> VaultStatus:
    """Return how all vaults are. Raises VaultLocked."""
    keyring = get_keyring()
    rows = VaultEntry.objects.annotate(key_id=KEY_ID).order_by().values("key_id")
    uses = {bytes(row["key_id"]): row for row in rows.annotate(count=Count("pk"), oldest=Min("sealed_at"))}
    published, differing = _published_state()
    copies = _published_key_ids() if published != "unreachable" else {}
    strangers = sorted({*uses, *copies}.difference(keyring.ids))
    return VaultStatus(
        vaults=Vault.objects.count(),
        entries=sum(row["count"] for row in uses.values()),
        keys=tuple(
            KeyUse(
                key_id=key_id.hex(),
                is_first=key_id == keyring.first_id,
                is_known=key_id in keyring.ids,
                entries=uses[key_id]["count"] if key_id in uses else 0,
                published=copies.get(key_id, 0),
                oldest=uses[key_id]["oldest"] if key_id in uses else None,
            )
            for key_id in (*keyring.ids, *strangers)
        ),
        published=published,
        differing=differing,
    )


def find_unopened() -> list[str]:
    """Open every entry, in the database and as Redis publishes it; return a sentence for each that does not open.

    Raises VaultLocked, BrokerUnavailable.
    """
    problems = []
    for vault in Vault.objects.order_by("name"):
        for entry in vault.entries.iterator(chunk_size=100):
            problems += _problem(entry.place(vault.name), bytes(entry.ciphertext))
    for name, published in _published_vaults().items():
        if published is None:
            problems.append(f"The published copy of the vault {name} was not signed by this server.")
            continue
        for copy in published.entries:
            problems += [f"As published: {told}" for told in _problem(copy.place(name), copy.ciphertext)]
    problems += [f"The published copy of the vault {name} is not as the database says." for name in _differing()]
    return problems


def _problem(place: Place, ciphertext: bytes) -> list[str]:
    """Return why an entry does not open, nothing if it does."""
    try:
        get_keyring().open(place, ciphertext)
    except VaultUnavailable as error:
        return [error.detail]
    return []


def _published_state() -> tuple[str, tuple[str, ...]]:
    """Return whether the published copy agrees with the database, and which vaults do not."""
    try:
        differing = _differing()
    except BrokerUnavailable:
        return "unreachable", ()
    return "differs" if differing else "agrees", tuple(differing)


def _differing() -> list[str]:
    """Return the vaults whose rows, documents and published copies are not the same. Raises BrokerUnavailable."""
    comparison = compare_configuration()
    places = {*comparison.outdated, *comparison.refused, *comparison.ahead, *comparison.unknown}
    differing = {place.removeprefix(_PREFIX) for place in places if place.startswith(_PREFIX)}
    stored = {row.name: row.body for row in StoredDocument.objects.filter(kind=Kind.VAULT)}
    for vault in Vault.objects.prefetch_related("entries"):
        body = stored.get(vault.name)
        if body is None or bytes(body) != encode_vault(vault.entries.all()):
            differing.add(vault.name)
    return sorted(differing)


def _published_vaults() -> dict[str, PublishedVault | None]:
    """Return the vaults in Redis; None where the server did not sign it. Raises BrokerUnavailable."""
    vaults: dict[str, PublishedVault | None] = {}
    for name, document in published_documents(Kind.VAULT).items():
        if document is None:
            vaults[name] = None
        elif document.body is not None:
            vaults[name] = decode_vault(document.body)
    return vaults


def _published_key_ids() -> dict[bytes, int]:
    """Return how many entries in Redis are under each key. Raises BrokerUnavailable."""
    counts: dict[bytes, int] = {}
    for vault in _published_vaults().values():
        for entry in vault.entries if vault else ():
            key_id = used_key_id(entry.ciphertext)
            counts[key_id] = counts.get(key_id, 0) + 1
    return counts

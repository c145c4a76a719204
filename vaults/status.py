"""The status of all vaults, in the database and as published: their master keys, and which entries can be decrypted."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Min

from runqy.configuration.documents import DocumentKind, field
from runqy.configuration.models import StoredDocument
from runqy.configuration.publishing import compare_configuration, published_documents
from runqy.errors import BrokerUnavailable
from vaults.crypto import get_keyring, read_key_id
from vaults.models import KEY_ID, PublishedVault, SealedSecret, Vault, VaultEntry

_PREFIX = field(DocumentKind.VAULT, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    key_id: str
    is_first: bool
    is_known: bool
    """Whether it is in RUNQY_VAULT_MASTER_KEY."""
    entries: int
    published: int
    """The number of entries of the published copy."""
    secrets: int
    """The number of the server's own secrets, such as those of webhooks."""
    oldest: datetime | None
    """The time of its oldest ciphertext."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultStatus:
    vaults: int
    entries: int
    keys: tuple[KeyUse, ...]
    """The keys of the setting in order, then unknown ones."""
    published: str
    """`agrees`, `differs` or `unreachable`."""
    differing: tuple[str, ...]
    """Vaults whose published copy differs from the database."""

    @property
    def removable(self) -> tuple[str, ...]:
        """The ids of old keys that nothing uses. None can be removed while Redis cannot be read."""
        if self.published == "unreachable":
            return ()
        return tuple(
            use.key_id for use in self.keys if not (use.is_first or use.entries or use.published or use.secrets)
        )


def get_vault_status() -> VaultStatus:
    """Return the status of all vaults. Raise VaultLocked."""
    keyring = get_keyring()
    rows = VaultEntry.objects.annotate(key_id=KEY_ID).order_by().values("key_id")
    uses = {bytes(row["key_id"]): row for row in rows.annotate(count=Count("pk"), oldest=Min("sealed_at"))}
    copies: Counter[bytes] = Counter()
    secrets = Counter(read_key_id(each) for row in SealedSecret.objects.all() for each in row.ciphertexts)
    try:
        differing = tuple(_differing())
        copies = _published_key_ids()
        published = "differs" if differing else "agrees"
    except BrokerUnavailable:
        published, differing = "unreachable", ()
    unknown_ids = sorted({*uses, *copies, *secrets}.difference(keyring.ids))
    return VaultStatus(
        vaults=Vault.objects.count(),
        entries=sum(row["count"] for row in uses.values()),
        keys=tuple(
            KeyUse(
                key_id=key_id.hex(),
                is_first=key_id == keyring.first_id,
                is_known=key_id in keyring.ids,
                entries=uses[key_id]["count"] if key_id in uses else 0,
                published=copies[key_id],
                secrets=secrets[key_id],
                oldest=uses[key_id]["oldest"] if key_id in uses else None,
            )
            for key_id in (*keyring.ids, *unknown_ids)
        ),
        published=published,
        differing=differing,
    )


def verify_entries() -> list[str]:
    """Decrypt every entry, in the database and as published; return the errors. Raise VaultLocked,
    BrokerUnavailable.
    """
    find_error = get_keyring().find_error
    errors = []
    for vault in Vault.objects.order_by("name"):
        for entry in vault.entries.iterator(chunk_size=100):
            errors.append(find_error(entry.aad, bytes(entry.ciphertext)))
    for name, published in _published_vaults().items():
        if published is None:
            errors.append(f"The published copy of the vault {name} has an invalid signature.")
            continue
        for copy in published.entries:
            if error := find_error(copy.aad(name), copy.ciphertext):
                errors.append(f"As published: {error}")
    for secret in SealedSecret.objects.order_by("pk"):
        errors += [find_error(secret.aad, ciphertext) for ciphertext in secret.ciphertexts]
    errors += [f"The published copy of the vault {name} differs from the database." for name in _differing()]
    return [error for error in errors if error]


def _differing() -> list[str]:
    """Return the vaults whose rows, documents and published copies differ. Raise BrokerUnavailable."""
    comparison = compare_configuration()
    fields = {*comparison.outdated, *comparison.altered, *comparison.ahead}
    differing = {name.removeprefix(_PREFIX) for name in fields if name.startswith(_PREFIX)}
    stored = {row.name: row.body for row in StoredDocument.objects.filter(kind=DocumentKind.VAULT)}
    for vault in Vault.objects.prefetch_related("entries"):
        body = stored.get(vault.name)
        if (
            body is None
            or bytes(body) != PublishedVault.of(vault.entries.all(), replacements=vault.replacements).encode()
        ):
            differing.add(vault.name)
    return sorted(differing)


def _published_vaults() -> dict[str, PublishedVault | None]:
    """Return the vaults in Redis; None for one with an invalid signature. Raise BrokerUnavailable."""
    return {
        name: PublishedVault.decode(document.body or b"") if document else None
        for name, document in published_documents(DocumentKind.VAULT).items()
        if document is None or document.body is not None
    }


def _published_key_ids() -> Counter[bytes]:
    """Return how many published entries each key encrypted, by its id. Raise BrokerUnavailable."""
    vaults = [vault for vault in _published_vaults().values() if vault]
    return Counter(read_key_id(entry.ciphertext) for vault in vaults for entry in vault.entries)

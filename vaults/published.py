"""What is published about a vault: its entries, as the same ciphertext that the database holds."""

from collections.abc import Iterable

import msgspec

from runqy.structs import read_json
from vaults.crypto import Place
from vaults.models import VaultEntry
from vaults.names import EntryUsage


class PublishedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry; only the server can open it."""

    key: str
    revision: int = msgspec.field(name="version")
    version: int = msgspec.field(name="number", default=1)
    ciphertext: bytes
    usage: EntryUsage = EntryUsage.ENVIRONMENT
    git_hosts: tuple[str, ...] = ()

    def place(self, vault: str) -> Place:
        """Return what the ciphertext is bound to, in a vault of this name."""
        return Place(vault, self.key, self.revision)


class PublishedVault(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of a vault in order of their keys."""

    entries: tuple[PublishedEntry, ...]


def encode_vault(entries: Iterable[VaultEntry]) -> bytes:
    """Return the JSON of a vault."""
    published = sorted(
        (
            PublishedEntry(
                key=entry.key,
                revision=entry.revision,
                version=entry.version,
                ciphertext=bytes(entry.ciphertext),
                usage=entry.get_usage(),
                git_hosts=tuple(entry.git_hosts),
            )
            for entry in entries
        ),
        key=lambda entry: entry.key,
    )
    return msgspec.json.encode(PublishedVault(entries=tuple(published)))


def decode_vault(body: bytes) -> PublishedVault:
    """Return the vault in a JSON text made by `encode_vault`."""
    return read_json(body, PublishedVault)

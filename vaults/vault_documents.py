"""The published document of a vault: its entries with the ciphertexts of the database."""

from collections.abc import Iterable

import msgspec

from runqy.formats.json_decoding import read_json
from vaults.crypto import EntryAAD
from vaults.entry_rules import EntryUsage
from vaults.models import VaultEntry


class PublishedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry. Only the server can decrypt it."""

    key: str
    revision: int
    version: int
    ciphertext: bytes
    usage: EntryUsage
    git_hosts: tuple[str, ...]
    is_secret: bool

    def aad(self, vault: str) -> EntryAAD:
        """Return the associated data of the ciphertext, in a vault of this name."""
        return EntryAAD(vault, self.key, self.revision, self.usage.value, self.git_hosts, self.is_secret)


class PublishedVault(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of a vault, in the order of their keys."""

    entries: tuple[PublishedEntry, ...]


def encode_vault(entries: Iterable[VaultEntry]) -> bytes:
    published = sorted(
        (
            PublishedEntry(
                key=entry.key,
                revision=entry.revision,
                version=entry.version,
                ciphertext=bytes(entry.ciphertext),
                usage=entry.get_usage(),
                git_hosts=tuple(entry.git_hosts),
                is_secret=entry.is_secret,
            )
            for entry in entries
        ),
        key=lambda entry: entry.key,
    )
    return msgspec.json.encode(PublishedVault(entries=tuple(published)))


def decode_vault(body: bytes) -> PublishedVault:
    return read_json(body, PublishedVault)

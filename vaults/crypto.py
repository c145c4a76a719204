"""AES-256-GCM encryption of entry values and of the server's own secrets, the master keys of the settings, and
fingerprints of values.

Stored bytes: format version (1), key id (8), nonce (12), ciphertext with tag. Vault, entry key, revision, usage, git
hosts, secrecy and key id are associated data. A ciphertext cannot be decrypted if it was moved to another entry,
replaced by an older one without its revision, or declared for other hosts.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from runqy.core import signing
from runqy.errors import VaultLocked, VaultUnavailable

_FORMAT = 1
_FINGERPRINT_BYTES = 5
KEY_ID_AT, KEY_ID_BYTES = 1, 8
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_HEAD_BYTES = KEY_ID_AT + KEY_ID_BYTES + _NONCE_BYTES


class MasterKeyMalformed(ValueError):
    """The master key is not base64 of 32 bytes, or a list of such keys separated by commas."""


class AssociatedData(Protocol):
    """What a ciphertext belongs to. It can be decrypted only as this."""

    @property
    def label(self) -> str:
        """What it is, in messages."""

    def list_parts(self, used_id: bytes) -> list[bytes]:
        """Return what is authenticated with the ciphertext of a key with this id."""


@dataclass(frozen=True, slots=True)
class EntryAAD:
    """The associated data of a ciphertext: the entry and the revision that it belongs to."""

    vault: str
    key: str
    revision: int
    """The revision of the configuration in which it was encrypted."""
    usage: str
    git_hosts: tuple[str, ...]
    is_secret: bool

    def __str__(self) -> str:
        return f"{self.vault}/{self.key}"

    @property
    def label(self) -> str:
        return f"entry {self}"

    def list_parts(self, used_id: bytes) -> list[bytes]:
        parts = [b"runqy vault entry", self.vault.encode(), self.key.encode(), b"%d" % self.revision, used_id]
        return [*parts, self.usage.encode(), b"%d" % self.is_secret, *(host.encode() for host in self.git_hosts)]


@dataclass(frozen=True, slots=True)
class SealedAAD:
    """The associated data of a secret of the server's own: its row."""

    purpose: str
    id: str

    @property
    def label(self) -> str:
        return f"{self.purpose} {self.id}"

    def list_parts(self, used_id: bytes) -> list[bytes]:
        return [b"runqy sealed secret", self.purpose.encode(), self.id.encode(), used_id]


class Keyring:
    """The master keys. The first one encrypts; all of them decrypt."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.ids = tuple(self._ciphers)
        self.first_id = self.ids[0]
        # What stored bytes under the first key begin with.
        self.current_head = bytes([_FORMAT]) + self.first_id

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """Parse the setting. Raise MasterKeyMalformed, whose message does not contain the text."""
        return cls([_parse_key(part.strip()) for part in text.split(",")])

    def encrypt(self, aad: AssociatedData, value: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        associated = _associated_data(aad, self.first_id)
        ciphertext = self._ciphers[self.first_id].encrypt(nonce, value.encode(), associated)
        return bytes([_FORMAT]) + self.first_id + nonce + ciphertext

    def decrypt(self, aad: AssociatedData, stored: bytes) -> str:
        """Return the value of stored bytes. Raise VaultUnavailable, whose message names the entry and the key id."""
        used_id, nonce = read_key_id(stored), stored[KEY_ID_AT + KEY_ID_BYTES : _HEAD_BYTES]
        if len(stored) < _HEAD_BYTES + _TAG_BYTES or stored[0] != _FORMAT:
            raise VaultUnavailable(f"The {aad.label} (key {used_id.hex()}) is damaged: unknown format.")
        cipher = self._ciphers.get(used_id)
        if cipher is None:
            raise VaultUnavailable(
                f"The {aad.label} was encrypted with the key {used_id.hex()}, which is not in RUNQY_VAULT_MASTER_KEY."
            )
        try:
            return cipher.decrypt(nonce, stored[_HEAD_BYTES:], _associated_data(aad, used_id)).decode()
        except InvalidTag as error:
            raise VaultUnavailable(
                f"The {aad.label} cannot be decrypted with the key {used_id.hex()}: "
                "it was altered, or belongs to another entry, an older version or another usage."
            ) from error

    def find_error(self, aad: AssociatedData, stored: bytes) -> str:
        """Return why stored bytes cannot be decrypted; empty if they can."""
        try:
            self.decrypt(aad, stored)
        except VaultUnavailable as error:
            return error.detail
        return ""

    def is_current(self, stored: bytes) -> bool:
        return stored.startswith(self.current_head)


def key_id(key: bytes) -> bytes:
    """Return the public id of a key: the start of a hash."""
    return hashlib.sha256(b"runqy vault key id\0" + key).digest()[:KEY_ID_BYTES]


def read_key_id(stored: bytes) -> bytes:
    return stored[KEY_ID_AT : KEY_ID_AT + KEY_ID_BYTES]


def generate_master_key() -> str:
    return base64.b64encode(os.urandom(_KEY_BYTES)).decode()


def _parse_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MasterKeyMalformed("it is not base64") from error
    if len(key) != _KEY_BYTES:
        raise MasterKeyMalformed(f"it has {len(key)} bytes, not {_KEY_BYTES}")
    return key


def _associated_data(aad: AssociatedData, used_id: bytes) -> bytes:
    # Each part is preceded by its length, so that no two have the same associated data.
    return bytes([_FORMAT]) + b"".join(len(part).to_bytes(4, "big") + part for part in aad.list_parts(used_id))


def get_keyring() -> Keyring:
    """Return the master keys. Raise VaultLocked if there are none."""
    if not settings.RUNQY_VAULT_MASTER_KEY:
        raise VaultLocked
    return _parsed(settings.RUNQY_VAULT_MASTER_KEY)


@lru_cache(maxsize=4)
def _parsed(text: str) -> Keyring:
    return Keyring.parse(text)


def fingerprint(value: str, secret: str) -> str:
    """Return the fingerprint of a value, which is the same for equal values in all vaults.

    It is keyed by the server's secret key: values cannot be guessed from fingerprints, nor from the database.
    """
    key = signing.derive_key(secret, "runqy fingerprints of vault values")
    return signing.mac(key, value.encode()).decode()[: 2 * _FINGERPRINT_BYTES]

"""Encrypts the values of entries with AES-256-GCM, bound to the very place they stand in.

Stored bytes: format version (1), key id (8), nonce (12), ciphertext with tag. Vault, entry key, revision and
key id are associated data, so that a ciphertext moved to another place, or an older one put back, does not open.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runqy.errors import VaultUnavailable

_FORMAT = 1
KEY_ID_AT, KEY_ID_BYTES = 1, 8
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_HEAD_BYTES = KEY_ID_AT + KEY_ID_BYTES + _NONCE_BYTES


class MasterKeyMalformed(ValueError):
    """The master key is not base64 of 32 bytes, or several such separated by commas."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ciphertext belongs."""

    vault: str
    key: str
    revision: int
    """Of the configuration, when the ciphertext was made."""

    def __str__(self) -> str:
        """Name the entry, without its revision."""
        return f"{self.vault}/{self.key}"


class Keyring:
    """The master keys: the first encrypts, all decrypt."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take keys of 32 bytes each, at least one."""
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.ids = tuple(self._ciphers)
        self.first_id = self.ids[0]

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """Read the setting. Raises MasterKeyMalformed, without the text in its message."""
        return cls([_parse_key(part.strip()) for part in text.split(",")])

    def seal(self, place: Place, value: str) -> bytes:
        """Return the stored bytes of a value in a place."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.first_id].encrypt(nonce, value.encode(), _bound(place, self.first_id))
        return bytes([_FORMAT]) + self.first_id + nonce + sealed

    def open(self, place: Place, stored: bytes) -> str:
        """Return the value in stored bytes. Raises VaultUnavailable, which names the entry and the key id."""
        used_id, nonce = used_key_id(stored), stored[KEY_ID_AT + KEY_ID_BYTES : _HEAD_BYTES]
        if len(stored) < _HEAD_BYTES + _TAG_BYTES or stored[0] != _FORMAT:
            raise VaultUnavailable(f"The entry {place} (key {used_id.hex()}) is damaged: no known format.")
        cipher = self._ciphers.get(used_id)
        if cipher is None:
            raise VaultUnavailable(
                f"The entry {place} was encrypted with the key {used_id.hex()}, which is not in RUNQY_VAULT_MASTER_KEY."
            )
        try:
            return cipher.decrypt(nonce, stored[_HEAD_BYTES:], _bound(place, used_id)).decode()
        except InvalidTag as error:
            raise VaultUnavailable(
                f"The entry {place} cannot be opened with the key {used_id.hex()}: "
                "it was altered, or belongs to another place or an older version."
            ) from error

    def is_current(self, stored: bytes) -> bool:
        """Tell whether stored bytes were encrypted with the first key."""
        return used_key_id(stored) == self.first_id


def key_id(key: bytes) -> bytes:
    """Return the public name of a key, which says nothing about it."""
    return hashlib.sha256(b"runqy vault key id\0" + key).digest()[:KEY_ID_BYTES]


def used_key_id(stored: bytes) -> bytes:
    """Return the id of the key that stored bytes say they were encrypted with."""
    return stored[KEY_ID_AT : KEY_ID_AT + KEY_ID_BYTES]


def new_master_key() -> str:
    """Return a random key as the setting takes it."""
    return base64.b64encode(os.urandom(_KEY_BYTES)).decode()


def _parse_key(text: str) -> bytes:
    """Return the bytes of one key."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MasterKeyMalformed("it is not base64") from error
    if len(key) != _KEY_BYTES:
        raise MasterKeyMalformed(f"it has {len(key)} bytes, not {_KEY_BYTES}")
    return key


def _bound(place: Place, used_id: bytes) -> bytes:
    """Return the associated data; lengths keep the parts apart."""
    parts = (b"runqy vault entry", place.vault.encode(), place.key.encode(), b"%d" % place.revision, used_id)
    return bytes([_FORMAT]) + b"".join(len(part).to_bytes(4, "big") + part for part in parts)

"""The file format of exports: JSON, encrypted with a passphrase by scrypt and AES-256-GCM.

    {"format": "runqy-vault", "version": 1,
     "kdf": {"name": "scrypt", "n": 131072, "r": 8, "p": 1, "salt": "<base64 of 16 bytes>"},
     "cipher": {"name": "aes-256-gcm", "nonce": "<base64 of 12 bytes>"},
     "data": "<base64>"}

`data` is the JSON `{"name", "description", "exported_at", "entries": [{"key", "value", "is_secret"}]}`, encrypted; an
entry that is a git token has "usage" and "git_hosts" too. The associated data is everything but `data`: its members as
above, as JSON without spaces. The passphrase is normalized (NFKC) and read as UTF-8. The memory and
time that a file requires are bounded before the key is derived.
"""

import os
import unicodedata
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from runqy.errors import ExportNotOpened, ExportUnreadable, PassphraseRefused
from runqy.json_decoding import read_json
from vaults.entry_rules import EntryUsage

PASSPHRASE_MIN, PASSPHRASE_MAX = 12, 1024
FILE_MAX_BYTES = 64 << 20
N_MIN, N_MAX, P_MAX = 1 << 14, 1 << 18, 4
"""At most 256 MiB, scrypt's memory being 128 * n * r, and with n * p up to N_MAX about a second."""

_N, _R, _P = 1 << 17, 8, 1
_KEY_BYTES, _SALT_BYTES, _NONCE_BYTES = 32, 16, 12

_derivation_lock = Lock()
"""One derivation at a time in a process, so that requests together need no more memory than one."""


class ExportedEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A decrypted entry."""

    key: str
    value: str
    is_secret: bool
    usage: EntryUsage | None = None
    """None: not in the file; entries that are only variables."""
    git_hosts: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"ExportedEntry(key={self.key!r})"


class ExportedVault(msgspec.Struct, frozen=True, kw_only=True):
    """A decrypted vault."""

    name: str
    description: str
    exported_at: str
    """RFC 3339."""
    entries: tuple[ExportedEntry, ...]


class Derivation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the key is derived from the passphrase."""

    name: Literal["scrypt"] = "scrypt"
    n: int
    r: int
    p: int
    salt: bytes


class Cipher(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the key is used."""

    name: Literal["aes-256-gcm"] = "aes-256-gcm"
    nonce: bytes


class EncryptedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An export in a file or a request."""

    format: Literal["runqy-vault"] = "runqy-vault"
    version: Literal[1] = 1
    kdf: Derivation
    cipher: Cipher
    data: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """The associated data of the ciphertext."""

    format: str
    version: int
    kdf: Derivation
    cipher: Cipher


def encrypt_export(vault: ExportedVault, passphrase: str) -> bytes:
    """Return a vault as a file. Raise PassphraseRefused."""
    check_passphrase(passphrase)
    kdf = Derivation(n=_N, r=_R, p=_P, salt=os.urandom(_SALT_BYTES))
    cipher = Cipher(nonce=os.urandom(_NONCE_BYTES))
    file = EncryptedFile(kdf=kdf, cipher=cipher, data=b"")
    data = AESGCM(_derive_key(kdf, passphrase)).encrypt(
        cipher.nonce, msgspec.json.encode(vault), _associated_data(file)
    )
    return msgspec.json.encode(msgspec.structs.replace(file, data=data)) + b"\n"


def decrypt_export(content: bytes, passphrase: str) -> ExportedVault:
    """Return the vault in a file. Raise ExportUnreadable, ExportNotOpened; neither reveals the content."""
    if len(content) > FILE_MAX_BYTES:
        raise ExportUnreadable(f"An export has at most {FILE_MAX_BYTES >> 20} MiB.")
    file = _parse(content)
    _check_bounds(file)
    try:
        decrypted = AESGCM(_derive_key(file.kdf, passphrase)).decrypt(
            file.cipher.nonce, file.data, _associated_data(file)
        )
    except InvalidTag as error:
        raise ExportNotOpened from error
    try:
        return read_json(decrypted, ExportedVault)
    except (msgspec.DecodeError, UnicodeDecodeError):  # from None: the trace would show what was decrypted
        raise ExportUnreadable("The export was decrypted, but contains no vault.") from None


def check_passphrase(passphrase: str) -> None:
    """Raise PassphraseRefused for one that is too short or too long, as it was sent or once it is normalized."""
    lengths = len(passphrase), len(_normalize(passphrase))
    if min(lengths) < PASSPHRASE_MIN or max(lengths) > PASSPHRASE_MAX:
        raise PassphraseRefused


def _parse(content: bytes) -> EncryptedFile:
    try:
        return read_json(content, EncryptedFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExportUnreadable(f"Not an export of a vault: {error}.") from error


def _check_bounds(file: EncryptedFile) -> None:
    """Raise ExportUnreadable for parameters that no server writes and that would be expensive."""
    kdf = file.kdf
    is_power = N_MIN <= kdf.n <= N_MAX and kdf.n & (kdf.n - 1) == 0
    if not (is_power and kdf.r == _R and 1 <= kdf.p <= P_MAX and kdf.n * kdf.p <= N_MAX):
        raise ExportUnreadable(
            f"The export requires scrypt with n={kdf.n}, r={kdf.r}, p={kdf.p}: n is a power of two from {N_MIN} to "
            f"{N_MAX}, r is {_R}, p is 1 to {P_MAX}, and n times p at most {N_MAX}."
        )
    if len(kdf.salt) != _SALT_BYTES or len(file.cipher.nonce) != _NONCE_BYTES:
        raise ExportUnreadable(f"A salt has {_SALT_BYTES} bytes and a nonce {_NONCE_BYTES}.")


def _derive_key(kdf: Derivation, passphrase: str) -> bytes:
    with _derivation_lock:
        scrypt = Scrypt(salt=kdf.salt, length=_KEY_BYTES, n=kdf.n, r=kdf.r, p=kdf.p)
        return scrypt.derive(_normalize(passphrase).encode("utf-8", "surrogatepass"))


def _normalize(passphrase: str) -> str:
    """Return a passphrase independent of how keyboard and system compose characters."""
    return unicodedata.normalize("NFKC", passphrase)


def _associated_data(file: EncryptedFile) -> bytes:
    return msgspec.json.encode(_Head(file.format, file.version, file.kdf, file.cipher))

"""What is published: documents of three kinds, each with the revision that orders it, signed by the server.

In Redis a document is `1 <revision> <MAC in hex> <body>`; a deletion is a document without a body.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FORMAT = b"1"


class Kind(StrEnum):
    """What a document describes."""

    QUEUE = "queue"
    VAULT = "vault"
    API_KEY = "api_key"


class DocumentRefused(ValueError):
    """Nobody who knows the secret key wrote this document for this place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One piece of configuration at one revision."""

    kind: Kind
    name: str
    revision: int
    body: bytes | None
    """JSON; None: deleted."""

    @property
    def field(self) -> str:
        """Return what the document is found by."""
        return field(self.kind, self.name)


def field(kind: Kind, name: str) -> str:
    """Return what a document is found by, in Redis and in a snapshot."""
    return f"{kind}:{name}"


@lru_cache(maxsize=8)
def signing_key(secret: str) -> bytes:
    """Derive the key that signs documents from the server's secret key."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"runqy published configuration")
    return hkdf.derive(secret.encode())


def seal(document: Document, key: bytes) -> bytes:
    """Return a document as it stands in Redis."""
    body = document.body or b""
    mac = _mac(document.field, document.revision, body, key)
    return b"%s %d %s %s" % (_FORMAT, document.revision, mac.encode(), body)


def unseal(place: str, content: bytes, key: bytes) -> Document:
    """Return the document that stands in a field. Raises DocumentRefused unless it was signed for this very field."""
    try:
        form, revision_text, mac, body = content.split(b" ", 3)
        revision = int(revision_text)
        kind, _, name = place.partition(":")
        document = Document(kind=Kind(kind), name=name, revision=revision, body=body or None)
    except ValueError as error:
        raise DocumentRefused(f"{place}: not a document") from error
    if form != _FORMAT or not hmac.compare_digest(mac, _mac(place, revision, body, key).encode()):
        raise DocumentRefused(f"{place}: wrong signature")
    return document


def _mac(place: str, revision: int, body: bytes, key: bytes) -> str:
    """Return the MAC over place, revision and body; NUL, which none of the first two contains, keeps them apart."""
    signed = b"\0".join((b"runqy document", _FORMAT, place.encode(), b"%d" % revision, body))
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def token(revisions: list[int]) -> int:
    """Return the token of something made of several documents.

    Revisions come from one counter, so the highest grows with every change of any of them.
    """
    return max(revisions)
